//! Compiles the `.proto` file.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    mesh_build::compile(&["template.proto"], &["proto"])
}
