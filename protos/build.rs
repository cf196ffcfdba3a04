//! Compiles the `.proto` files.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    mesh_build::compile(&["app/grpc/service1.proto", "api.proto"], &["."])
}
