//! The contract of service1, compiled as in tonic's documentation: the clients of the crate `protos`
//! have the codec of the mesh.

// Generated code: its docs are in the .proto file.
#![allow(missing_docs, clippy::pedantic)]

tonic::include_proto!("app.grpc");
