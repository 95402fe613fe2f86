//! Nodes from outside, as real processes: the wire contract, the command line, groups, crashes, replication.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failed unwrap here is a failed test"
)]

mod actors;
mod api_grpc;
mod api_grpc_control;
mod api_grpc_standard;
mod api_rest;
mod api_rest_docs;
mod api_rest_node;
mod api_rest_objects;
mod bad_input;
mod bad_input_grpc;
mod bad_input_limits;
mod cluster_harness;
mod command_line;
mod command_line_process;
mod crash;
mod crash_actors;
mod embedded;
mod full_disk;
mod groups;
mod groups_actors;
mod groups_bad_input;
mod groups_control;
mod groups_dev;
mod otlp;
mod replicas;
mod replicas_life;
mod replicas_promises;
#[path = "../support/mod.rs"]
mod support;
