//! Compiles the services of the tests as any service is compiled.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    mesh_build::compile(&["testing/test.proto", "testing/calls.proto"], &["protos"])
}
