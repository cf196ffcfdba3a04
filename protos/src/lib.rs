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

/// The limits of the contract, which service1 checks and the descriptions of the APIs name.
pub mod limits {
    /// The longest name, in characters.
    pub const NAME: usize = 1_024;

    /// The most items in a list, which is one message of 0.2 MB. gRPC implementations accept 4 MB
    /// by default. A stream has no limit.
    pub const LIST: i32 = 10_000;
}
