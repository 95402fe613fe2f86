//! The wire contract's messages and services, generated from `proto/`. Only `api/`, `network/` and the command line
//! use them; everything else speaks in the types of `core/`.
#![expect(
    missing_docs,
    non_camel_case_types,
    clippy::all,
    reason = "generated; the contract's words stand in proto/"
)]

/// Package `grpc.models`.
pub mod models {
    tonic::include_proto!("grpc.models");
}

/// Package `grpc.groupstorage`.
pub mod groupstorage {
    tonic::include_proto!("grpc.groupstorage");
}

/// Package `grpc.peerstorage`.
pub mod peerstorage {
    tonic::include_proto!("grpc.peerstorage");
}

/// Package `grpc.peerservice`.
pub mod peerservice {
    tonic::include_proto!("grpc.peerservice");
}

/// Package `grpc.superpeerservice`.
pub mod superpeerservice {
    tonic::include_proto!("grpc.superpeerservice");
}

/// Package `nomad.link.v1`.
pub mod link {
    tonic::include_proto!("nomad.link.v1");
}

/// The encoded `FileDescriptorSet` of the whole contract, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/nomad_descriptors.bin"));
