//! Compiles the `.proto` file. `common` says where its options are.

use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto", &env::var("DEP_MESH_PROTOS_DIR")?])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_file("template.proto")?;
    let descriptors = Path::new(&env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(descriptors, compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("common::client::Codec")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
