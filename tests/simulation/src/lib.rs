//! The stacks of `common` in simulated time.

pub mod trace;

/// The service of the simulation, generated from its `.proto` file.
#[allow(missing_docs, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("simulated");

    /// The encoded descriptors of the service.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
