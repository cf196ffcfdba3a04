//! [`parse`]: reads the configuration from the command line and the environment.

use std::{env, process::exit};

use clap::{
    Arg, ArgMatches, Command, Parser,
    error::{ContextKind, ErrorKind},
    parser::ValueSource,
};

use super::about::{self, About, Setting};
use crate::{healthcheck, tls::Tls};

/// The exit code for a bad flag or variable.
const EXIT_BAD_CONFIGURATION: i32 = 2;

/// The subcommand of every service.
const HEALTHCHECK: &str = "healthcheck";

/// Its help.
const ABOUT_HEALTHCHECK: &str = "Ask the service that runs on this host with the same settings \
    whether it is ready; the exit code is 0 if it is ready and 1 if it is not";

/// What is shown of a secret.
const HIDDEN: &str = "hidden";

/// Reads the configuration from the command line and the environment. If a setting is invalid,
/// writes one line to stderr and exits with 2.
///
/// The subcommand `healthcheck` asks the running service whether it is ready, at the setting
/// `--port` of `C`, and exits with 0 if it is. So a container image needs no shell and no curl.
///
/// The settings are on the page `/status` of the port for operators. Give an argument that holds a
/// secret `hide_env_values = true`: its value is on no page, nor in the help.
pub fn parse<C: Parser>() -> C {
    let command = C::command().subcommand(Command::new(HEALTHCHECK).about(ABOUT_HEALTHCHECK));
    let parsed = command.try_get_matches().and_then(|matches| {
        if matches.subcommand_name() == Some(HEALTHCHECK) {
            exit(check_health(&matches))
        }
        about::note(about(C::command(), &matches));
        C::from_arg_matches(&matches)
    });
    parsed.unwrap_or_else(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => error.exit(),
        _ => {
            eprintln!("{}", one_line(C::command(), &error));
            exit(EXIT_BAD_CONFIGURATION)
        }
    })
}

/// What the command and its arguments say about the process.
fn about(mut command: Command, matches: &ArgMatches) -> About {
    command.build();
    let settings = command.get_arguments();
    About {
        name: command.get_name().to_owned(),
        version: command.get_version().unwrap_or_default().to_owned(),
        settings: settings
            .filter_map(|it| setting(it, matches))
            .chain(of_opentelemetry())
            .collect(),
    }
}

/// The variables of OpenTelemetry, which are no arguments. Headers may hold a token.
fn of_opentelemetry() -> impl Iterator<Item = Setting> {
    // Not `vars`, which panics at text that is not UTF-8.
    let all = env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        let is_it = name.starts_with("OTEL_");
        is_it.then(|| (name, value.to_string_lossy().into_owned()))
    });
    all.map(|(name, value)| Setting {
        value: if name.ends_with("HEADERS") {
            HIDDEN.to_owned()
        } else {
            value
        },
        name,
        source: "environment",
    })
}

/// A setting that has a value.
fn setting(argument: &Arg, matches: &ArgMatches) -> Option<Setting> {
    let id = argument.get_id().as_str();
    let source = match matches.value_source(id)? {
        ValueSource::EnvVariable => "environment",
        ValueSource::CommandLine => "flag",
        _ => "default",
    };
    let name = match argument.get_env() {
        Some(variable) => variable.to_string_lossy().into_owned(),
        None => format!("--{}", argument.get_long().unwrap_or(id)),
    };
    let value = if argument.is_hide_env_values_set() {
        HIDDEN.to_owned()
    } else {
        let values = matches.get_raw(id)?;
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        values.join(",")
    };
    Some(Setting {
        name,
        value,
        source,
    })
}

/// Returns the exit code of the subcommand.
fn check_health(matches: &ArgMatches) -> i32 {
    let host = matches.try_get_one("host").ok().flatten().copied();
    let port = matches.try_get_one("port").ok().flatten().copied();
    let tls = matches.try_get_one::<Tls>("edge_tls").ok().flatten();
    let ready = match (host, port) {
        (Some(host), Some(port)) => healthcheck::run(host, port, tls),
        _ => Err("the service has no HTTP port to ask: no setting --port".to_owned()),
    };
    match ready {
        Ok(()) => 0,
        Err(reason) => {
            eprintln!("not ready: {reason}");
            1
        }
    }
}

/// clap's message in one line, with the name of the variable beside that of the flag.
fn one_line(mut command: Command, error: &clap::Error) -> String {
    command.build();
    let rendered = error.to_string();
    let message = rendered.lines().take_while(|line| !line.is_empty());
    let message = message.map(str::trim).collect::<Vec<_>>().join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    let variable = command.get_arguments().find_map(|argument| {
        let named = error.get(ContextKind::InvalidArg)?.to_string();
        (named == argument.to_string()).then(|| argument.get_env()?.to_str())?
    });
    let variable = variable.map_or_else(String::new, |name| format!(" (or the variable {name})"));
    format!("{}: {message}{variable}; see --help", command.get_name())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::Config;

    #[derive(Parser)]
    #[command(name = "service")]
    struct Service {
        #[command(flatten)]
        common: Config,
    }

    fn complaint(arguments: &[&str]) -> String {
        let arguments = ["service"].iter().chain(arguments);
        match Service::try_parse_from(arguments) {
            Ok(_) => "none".into(),
            Err(error) => one_line(Service::command(), &error),
        }
    }

    #[test]
    fn a_complaint_is_one_line_that_names_the_flag_and_the_variable() {
        assert_eq!(
            complaint(&["--deadline", "soon"]),
            "service: invalid value 'soon' for '--deadline <DEADLINE>': expected number at 0 \
             (or the variable DEADLINE); see --help"
        );
        assert_eq!(
            complaint(&["--nope"]),
            "service: unexpected argument '--nope' found; see --help"
        );
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for arguments in [
            ["--deadline", "0s"],
            ["--workers", "0"],
            ["--workers", "5000"],
            ["--max-connections", "2305843009213693952"],
            ["--max-in-flight", "1000001"],
            ["--idle-timeout", "0s"],
            ["--idle-timeout", "500000000000years"],
            ["--drain-timeout", "366days"],
            ["--log", "infoo"],
            ["--host", "localhost"],
            ["--log", "info,x=loud"],
        ] {
            let complaint = complaint(&arguments);
            assert!(complaint.contains(arguments[0]), "{complaint}");
        }
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(complaint(&[]), "none");
    }
}
