//! gRPC's own interoperability tests: their service, and their cases as a client.
//!
//! Both run through `common` and over plain tonic, whichever is on the other side; the tests in
//! `tests/interop` run both against grpcio.

pub mod cases;
pub mod peers;
pub mod service;

// Generated code; the .proto files carry the docs.
#[allow(missing_docs, clippy::pedantic)]
pub mod proto {
    pub mod grpc {
        pub mod testing {
            tonic::include_proto!("grpc.testing");
        }
    }
    pub mod calls {
        tonic::include_proto!("testing");
    }

    /// The descriptors of both.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
