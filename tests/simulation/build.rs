//! Compiles the service of the simulation as any service is compiled.

use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=protos");
    let mut compiler = protox::Compiler::new(["protos"])?;
    compiler
        .include_imports(true)
        .open_file("simulated.proto")?;
    let descriptors = Path::new(&env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(descriptors, compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("common::client::Codec")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
