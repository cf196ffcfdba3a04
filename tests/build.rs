//! Compiles the services of the tests as any service is compiled, with the options of `common`.

use std::{env, error::Error, fs, path::Path};

const FILES: [&str; 2] = ["testing/test.proto", "testing/calls.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=protos");
    let mut compiler = protox::Compiler::new(["protos", &env::var("DEP_MESH_PROTOS_DIR")?])?;
    compiler.include_imports(true).open_files(FILES)?;
    let descriptors = Path::new(&env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(descriptors, compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("common::client::Codec")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
