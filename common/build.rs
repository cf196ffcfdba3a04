//! Tells the build scripts of dependents where `mesh/options.proto` is: in the directory
//! `DEP_MESH_PROTOS_DIR`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::metadata=dir={}/protos", env!("CARGO_MANIFEST_DIR"));
}
