//! Compiles the `.proto` files.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    mesh_build::compile_with(&["chat.proto", "notes.proto"], &["protos"], |builder| {
        // Generated code uses this type for the message, and generates none.
        builder.extern_path(".notes.ObjectId", "crate::wire::ObjectId")
    })
}
