//! Compiles the .proto file of service1.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    const DIRECTORY: &str = "../../../protos";
    const FILE: &str = "app/grpc/service1.proto";
    println!("cargo::rerun-if-changed={DIRECTORY}/{FILE}");
    let mut compiler = protox::Compiler::new([DIRECTORY])?;
    compiler.include_imports(true).open_files([FILE])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
