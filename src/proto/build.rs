//! Compiles `proto/` without an installed `protoc`, and keeps the descriptors for gRPC reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const PROTOS: [&str; 6] = [
    "GameObject.proto",
    "GroupStorageService.proto",
    "PeerStorageService.proto",
    "PeerService.proto",
    "SuperPeerService.proto",
    "Link.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../../proto");
    let descriptors = protox::compile(PROTOS, ["../../proto"])?;
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out_dir.join("nomad_descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".grpc.models.GameObjectGrpc.value")
        .bytes(".nomad.link.v1.Frame.body")
        .compile_fds(descriptors)?;
    Ok(())
}
