//! Compiles the services of the tests as any service is compiled, with the options of `common`.

use std::{env, error::Error, fs, path::Path};

const FILES: [&str; 2] = ["testing/test.proto", "testing/calls.proto"];
const INCLUDES: [&str; 2] = ["protos", "../common/protos"];

fn main() -> Result<(), Box<dyn Error>> {
    for directory in INCLUDES {
        println!("cargo::rerun-if-changed={directory}");
    }
    let mut compiler = protox::Compiler::new(INCLUDES)?;
    compiler.include_imports(true).open_files(FILES)?;
    let descriptors = Path::new(&env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(descriptors, compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
