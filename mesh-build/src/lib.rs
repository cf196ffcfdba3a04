//! Compiles the `.proto` files of a service that builds on `common`. This is its whole `build.rs`:
//!
//! ```no_run
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     mesh_build::compile(&["parcels.proto"], &["proto"])
//! }
//! ```
//!
//! The service includes what was written:
//!
//! ```ignore
//! tonic::include_proto!("parcels"); // the package of the file
//! const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("descriptors");
//! ```

use std::{env, error::Error, fs, path::Path};

pub use tonic_prost_build::Builder;

/// Where the build script of `common` says that `mesh/options.proto` is.
const OPTIONS_DIRECTORY: &str = "DEP_MESH_PROTOS_DIR";

/// Compiles `files`, which are in `directories`, as are their imports. `mesh/options.proto` can be
/// imported, too. Nothing needs `protoc`.
///
/// The code has messages, servers, and clients with the codec of `common`. The descriptors are of all
/// files, and have what `common` reads: imports, the options of methods, and comments for `/docs`.
///
/// # Errors
///
/// If a file is missing or invalid, or the package does not depend on `common`.
pub fn compile(files: &[&str], directories: &[&str]) -> Result<(), Box<dyn Error>> {
    compile_with(files, directories, |builder| builder)
}

/// Compiles as [`compile`] does, with settings of the service's own, such as a type that code is
/// generated for elsewhere:
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// mesh_build::compile_with(&["notes.proto"], &["proto"], |builder| {
///     builder.extern_path(".notes.ObjectId", "crate::wire::ObjectId")
/// })
/// # }
/// ```
///
/// # Errors
///
/// As those of [`compile`].
pub fn compile_with(
    files: &[&str],
    directories: &[&str],
    settings: impl FnOnce(Builder) -> Builder,
) -> Result<(), Box<dyn Error>> {
    let options = env::var(OPTIONS_DIRECTORY)
        .map_err(|_| "`common` must be among the dependencies: it has mesh/options.proto")?;
    let mut compiler = protox::Compiler::new(directories.iter().chain([&options.as_str()]))?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(files)?;
    for path in compiler.files().filter_map(|file| file.path()) {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    // Not of `file_descriptor_set`: prost's types drop the options that are extensions.
    let descriptors = Path::new(&env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(descriptors, compiler.encode_file_descriptor_set())?;
    let builder = tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("common::client::Codec");
    settings(builder).compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
