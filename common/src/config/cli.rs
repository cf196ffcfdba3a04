//! [`parse`]: reads the configuration from the command line and the environment; and [`Defaults`]: of
//! a service's own.

use std::{env, ffi::OsStr, process::exit};

use clap::{
    Arg, ArgAction, ArgMatches, Command, Parser,
    builder::Resettable,
    error::{ContextKind, ErrorKind},
    parser::ValueSource,
};

use super::{
    about::{self, About, Setting},
    healthcheck, missing_runtime,
};
use crate::environment::{self, Variable};

/// The exit code for a bad flag or variable, and for settings that contradict each other.
pub const EXIT_BAD_CONFIGURATION: u8 = 2;

/// The end of the help: the variables that are no flags.
#[cfg(feature = "traces")]
const TRACES: &str = "\
Traces, by the variables of OpenTelemetry:
      OTEL_EXPORTER_OTLP_ENDPOINT
          Where the collector is, such as http://localhost:4318; without one, there are no traces
      OTEL_EXPORTER_OTLP_CERTIFICATE
          A file with the authorities of a collector with https, in PEM; without one, those of the system
      OTEL_TRACES_EXPORTER, OTEL_EXPORTER_OTLP_PROTOCOL, OTEL_EXPORTER_OTLP_INSECURE,
      OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_TIMEOUT, OTEL_TRACES_SAMPLER,
      OTEL_TRACES_SAMPLER_ARG, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_SDK_DISABLED
          See the specification of OpenTelemetry";

/// What is shown of a secret.
const HIDDEN: &str = "hidden";

/// Reads the configuration from the command line and the environment. If a setting is invalid,
/// writes one line to stderr and exits with 2.
///
/// An empty variable is one that is not set, but `MESH_TLS_DIR`, `EDGE_TLS_DIR` and `MESH_ALLOWED_PEERS` must
/// not be empty. A variable that ends with `_PORT` and has the address of a Service, as Kubernetes sets it, is
/// ignored with a warning.
///
/// The subcommand `healthcheck` asks the running service whether it is ready, at its port for operators or
/// else at the setting `--port` of `C`, and exits with 0 if it is. So a container image needs no shell and no
/// curl. It reads no other setting, and no certificate.
///
/// If `main` then makes what needs a tokio runtime, such as a pool of connections, one line on stderr says
/// where it belongs, in place of the panic, and the process exits with 2.
///
/// The settings are on the page `/status` of the port for operators. Give an argument that holds a
/// secret `hide_env_values = true`: its value is on no page, nor in the help.
pub fn parse<C: Parser>() -> C {
    Defaults::new().parse()
}

/// The defaults of a service's own, for settings of every service. `--help` shows them, and a flag or a
/// variable takes precedence.
///
/// ```no_run
/// use common::config::Defaults;
///
/// #[derive(clap::Parser)]
/// struct Config {
///     #[command(flatten)]
///     common: common::Config,
/// }
///
/// let config: Config = Defaults::new().admin_port(9082).parse();
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Defaults {
    admin_port: Option<u16>,
}

impl Defaults {
    /// No defaults but those of every service.
    pub const fn new() -> Self {
        Self { admin_port: None }
    }

    /// The port for operators, which there is no default of otherwise.
    #[must_use]
    pub const fn admin_port(self, port: u16) -> Self {
        Self {
            admin_port: Some(port),
        }
    }

    /// Reads the configuration as [`parse`] does, with these defaults.
    ///
    /// # Panics
    ///
    /// If a default is of a setting that `C` lacks: it flattens [`Config`](crate::Config).
    pub fn parse<C: Parser>(self) -> C {
        let command = self.apply_to(C::command());
        if let Some(code) = healthcheck::run_if_asked(&command) {
            exit(code)
        }
        let parser = command
            .clone()
            .subcommand(healthcheck::command())
            .next_line_help(true); // else each group has the form that its longest flag calls for
        #[cfg(feature = "traces")]
        let parser = parser.after_help(TRACES);
        let environment = Environment::of(&command);
        let parsed = environment.apply_to(parser.clone()).try_get_matches();
        let parsed = parsed.and_then(|matches| {
            if let Some(error) = environment.complaint(&command, &matches) {
                eprintln!("{error}");
                exit(EXIT_BAD_CONFIGURATION.into())
            }
            about::note(About {
                links: environment.links.clone(),
                ..about(command.clone(), &matches)
            });
            missing_runtime::explain(command.get_name(), EXIT_BAD_CONFIGURATION.into());
            C::from_arg_matches(&matches)
        });
        parsed.unwrap_or_else(|error| match error.kind() {
            // Of the whole parser: the help names each variable.
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                parser.get_matches();
                exit(0)
            }
            _ => {
                eprintln!("{}", one_line(command, &error));
                exit(EXIT_BAD_CONFIGURATION.into())
            }
        })
    }

    fn apply_to(self, command: Command) -> Command {
        match self.admin_port {
            None => command,
            Some(port) => {
                let port: &str = port.to_string().leak(); // as long as the process, as clap wants it
                command.mut_arg("admin_port", |argument| argument.default_value(port))
            }
        }
    }
}

/// The variables of a command that are not what they seem.
#[derive(Debug, Default, PartialEq, Eq)]
struct Environment {
    /// Empty: they count as not set.
    unset: Vec<String>,
    /// Set by Kubernetes: they count as not set, with a warning.
    links: Vec<String>,
    /// Empty, although that would open a door.
    empty: Vec<String>,
}

impl Environment {
    fn of(command: &Command) -> Self {
        let mut all = Self::default();
        for argument in command.get_arguments() {
            let Some(name) = argument.get_env().and_then(OsStr::to_str) else {
                continue;
            };
            let of_its_kind = match environment::read(name) {
                Variable::Unset => &mut all.unset,
                Variable::ServiceLink => &mut all.links,
                Variable::Empty => &mut all.empty,
                Variable::Set(_) => continue,
            };
            of_its_kind.push(name.to_owned());
        }
        all
    }

    /// The command without these variables.
    fn apply_to(&self, command: Command) -> Command {
        let is_any = |name: &OsStr| {
            let mut all = self.unset.iter().chain(&self.links).chain(&self.empty);
            all.any(|known| **known == *name)
        };
        command.mut_args(|argument| {
            let counts = !argument.get_env().is_some_and(is_any);
            if counts {
                argument
            } else {
                argument.env(Resettable::Reset)
            }
        })
    }

    /// The line about a variable that must not be empty, unless a flag takes precedence.
    fn complaint(&self, command: &Command, matches: &ArgMatches) -> Option<String> {
        let name = self.empty.iter().find(|name| {
            let mut arguments = command.get_arguments();
            let argument = arguments.find(|it| it.get_env() == Some(name.as_ref()));
            let id = argument.map(|it| it.get_id().as_str());
            let source = id.and_then(|id| matches.value_source(id));
            source != Some(ValueSource::CommandLine)
        })?;
        Some(format!(
            "{}: the variable {name} is empty, which could be a mistake that opens the service to all: give it \
             a value, or unset it; see --help",
            command.get_name()
        ))
    }
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
        links: Vec::new(),
    }
}

/// The variables of OpenTelemetry, which are no arguments. Headers may hold a token.
fn of_opentelemetry() -> impl Iterator<Item = Setting> {
    // Not `vars`, which panics at text that is not UTF-8.
    let all = env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        let is_it = name.starts_with("OTEL_") && environment::read(&name) != Variable::Unset;
        is_it.then(|| (name, value.to_string_lossy().into_owned()))
    });
    all.map(|(name, value)| Setting {
        value: Some(if name.ends_with("HEADERS") {
            HIDDEN.to_owned()
        } else {
            value
        }),
        without: None,
        name,
        source: "environment",
    })
}

/// A setting, with its value or without.
fn setting(argument: &Arg, matches: &ArgMatches) -> Option<Setting> {
    if matches!(
        argument.get_action(),
        ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
    ) {
        return None;
    }
    let id = argument.get_id().as_str();
    let source = match matches.value_source(id) {
        Some(ValueSource::EnvVariable) => "environment",
        Some(ValueSource::CommandLine) => "flag",
        _ => "default",
    };
    let name = match argument.get_env() {
        Some(variable) => variable.to_string_lossy().into_owned(),
        None => format!("--{}", argument.get_long().unwrap_or(id)),
    };
    let value = matches.get_raw(id).map(|values| {
        if argument.is_hide_env_values_set() {
            return HIDDEN.to_owned();
        }
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        values.join(",")
    });
    Some(Setting {
        name,
        value,
        without: without(argument),
        source,
    })
}

/// What the help of an argument says of its default in words: `[default: no TLS]`.
fn without(argument: &Arg) -> Option<String> {
    let help = argument.get_help()?.to_string();
    let (_, words) = help.rsplit_once("[default: ")?;
    Some(words.strip_suffix(']')?.to_owned())
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
    use crate::config::settings::Config;

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
            ["--admin-host", "localhost"],
            ["--log", "info,x=loud"],
            ["--log", "[span]=info"],
            ["--admin-names", "https://ops.example"],
            ["--client-error-lines", "1.5"],
            ["--client-error-lines", "NaN"],
        ] {
            let complaint = complaint(&arguments);
            assert!(complaint.contains(arguments[0]), "{complaint}");
        }
    }

    /// The settings of a service that was started with these arguments.
    fn settings(defaults: Defaults, arguments: &[&str]) -> Vec<Setting> {
        let arguments = ["service"].iter().chain(arguments);
        let command = defaults.apply_to(Service::command());
        let matches = command.clone().try_get_matches_from(arguments);
        let all = about(command, &matches.expect("they are valid")).settings;
        let is_ours = |setting: &Setting| !setting.name.starts_with("OTEL_");
        all.into_iter().filter(is_ours).collect()
    }

    #[test]
    fn a_setting_has_its_value_or_what_it_means_to_have_none() {
        let all = settings(Defaults::new(), &["--deadline", "3s"]);
        let of = |name: &str| {
            let setting = all.iter().find(|setting| setting.name == name);
            let setting = setting.unwrap_or_else(|| panic!("{name} in {all:?}"));
            (
                setting.value.as_deref(),
                setting.without.as_deref(),
                setting.source,
            )
        };
        assert_eq!(of("DEADLINE"), (Some("3s"), None, "flag"));
        assert_eq!(of("DRAIN_DELAY"), (Some("0s"), None, "default"));
        assert_eq!(of("MESH_TLS_DIR"), (None, Some("no TLS"), "default"));
        assert_eq!(of("ADMIN_PORT"), (None, None, "default"));
        assert!(all.iter().all(|setting| !setting.name.contains("help")));
    }

    #[test]
    fn a_default_of_the_service_gives_way_to_a_flag_and_the_help_has_it() {
        let defaults = Defaults::new().admin_port(9_082);
        let of = |arguments| {
            let mut all = settings(defaults, arguments).into_iter();
            let port = all.find(|setting| setting.name == "ADMIN_PORT");
            port.map(|port| (port.value, port.source))
        };
        assert_eq!(of(&[]), Some((Some("9082".into()), "default")));
        assert_eq!(of(&["--admin-port", "7"]), Some((Some("7".into()), "flag")));
        let help = defaults.apply_to(Service::command()).render_help();
        assert!(help.to_string().contains("[default: 9082]"), "{help}");
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(complaint(&[]), "none");
    }
}
