//! Compiles the `.proto` files with protox, so that a fresh machine needs no `protoc`.

use std::{env, error::Error, fs, path::Path};

const FILES: [&str; 2] = ["app/grpc/service1.proto", "api.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let mut compiler = protox::Compiler::new(["."])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(FILES)?;
    let descriptors = Path::new(&env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(descriptors, compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("common::client::Codec")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
