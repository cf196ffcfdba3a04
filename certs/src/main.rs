//! certs: writes a certificate authority and certificates for development.

use std::{net::IpAddr, path::PathBuf, process::ExitCode, thread::sleep, time::Duration};

use certs::{Authority, Certificate, Error};
use clap::Parser;

/// Write a certificate authority for development, and a certificate for each service
///
/// DIR gets ca.crt and ca.key; an authority in DIR is used again. For each service, DIR/NAME gets
/// tls.crt, tls.key and ca.crt, all at once: they are links into a directory that is swapped, as
/// Kubernetes does it. A running service takes new certificates without a restart.
///
/// This is for development: the key of the authority is a plain file. In production, cert-manager,
/// SPIRE or the like write the same layout.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The directory to write to
    #[arg(long)]
    dir: PathBuf,

    /// A service: NAME in the trust domain is its SPIFFE ID, NAME and localhost are its DNS names. May
    /// be repeated
    #[arg(long = "service", value_name = "NAME", required = true, value_parser = name)]
    services: Vec<String>,

    /// A further DNS name or IP address of these services. May be repeated
    #[arg(long = "dns", value_name = "HOST")]
    hosts: Vec<String>,

    /// The trust domain of the SPIFFE IDs
    #[arg(long, default_value = "mesh.local", value_parser = name)]
    trust_domain: String,

    /// How long the certificates are valid
    #[arg(long, default_value = "24h", value_parser = validity)]
    ttl: Duration,

    /// Keep running, and write new certificates after each such time
    #[arg(long, value_parser = validity)]
    every: Option<Duration>,
}

fn name(text: &str) -> Result<String, String> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let is_name = text.starts_with(|first: char| first.is_ascii_alphanumeric());
    if is_name && text.len() <= 63 && text.bytes().all(is_part) {
        Ok(text.to_owned())
    } else {
        Err("it must be a name of letters, digits, - and ., of 63 characters at most".to_owned())
    }
}

fn validity(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_hours(10 * 365 * 24);
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_secs(1)..=LONGEST).contains(&duration) {
        Ok(duration)
    } else {
        Err("it must be from 1s to 3650days".to_owned())
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    loop {
        if let Err(error) = write(&arguments) {
            eprintln!("certs: {error}");
            return ExitCode::FAILURE;
        }
        let Some(every) = arguments.every else {
            return ExitCode::SUCCESS;
        };
        sleep(every);
    }
}

fn write(arguments: &Arguments) -> Result<(), Error> {
    let authority = Authority::in_directory(&arguments.dir)?;
    for service in &arguments.services {
        let mut certificate = Certificate::of_service(service, &arguments.trust_domain);
        certificate.ttl = arguments.ttl;
        for host in &arguments.hosts {
            match host.parse::<IpAddr>() {
                Ok(address) => certificate.addresses.push(address),
                Err(_) => certificate.dns_names.push(host.clone()),
            }
        }
        let directory = arguments.dir.join(service);
        authority.issue(&certificate)?.write(&directory)?;
        println!("{}", directory.display());
    }
    Ok(())
}
