//! Compiles the service of the simulation as any service is compiled.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    mesh_build::compile(&["simulated.proto"], &["protos"])
}
