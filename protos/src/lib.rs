//! The wire contract of the mesh, compiled from the `.proto` files beside this crate.
//!
//! Package names become modules: `app.grpc` is [`app::grpc`], `api` is [`api`].

// Generated code: its docs are in the .proto files, and the contract sets its names.
#![allow(missing_docs, non_camel_case_types, clippy::pedantic)]

pub mod app {
    pub mod grpc {
        tonic::include_proto!("app.grpc");
    }
}

pub mod api {
    tonic::include_proto!("api");
}

/// The descriptors of all files, for gRPC reflection and for the options of each method.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
