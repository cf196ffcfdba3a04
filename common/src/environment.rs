//! [`read`]: a variable of the environment, and what its value means. All variables are read here or judged
//! here, so that an empty one means the same for all of them.

use std::{env, ffi::OsString};

/// The variables whose empty value would open a door that was meant to be closed.
const NEVER_EMPTY: [&str; 3] = ["MESH_TLS_DIR", "EDGE_TLS_DIR", "MESH_ALLOWED_PEERS"];

/// What Kubernetes sets a variable to, for each port of each Service of the namespace: `GRPC_PORT` for one
/// that is called `grpc`.
const LINKS: [&str; 3] = ["tcp://", "udp://", "sctp://"];

/// A variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Variable {
    /// It is not set, or empty: engines set variables that nobody has given a value.
    Unset,
    Set(OsString),
    /// The address of a Service of Kubernetes, in a variable that is a setting by chance.
    ServiceLink,
    /// It is empty, and must not be.
    Empty,
}

/// Reads a variable.
pub(crate) fn read(name: &str) -> Variable {
    judge(name, env::var_os(name))
}

/// The text of a variable that is set. Text that is not UTF-8 counts as none.
#[cfg(feature = "traces")]
pub(crate) fn text(name: &str) -> Option<String> {
    match read(name) {
        Variable::Set(value) => value.into_string().ok(),
        _ => None,
    }
}

fn judge(name: &str, value: Option<OsString>) -> Variable {
    let Some(value) = value else {
        return Variable::Unset;
    };
    let text = value.to_str().unwrap_or("not UTF-8");
    if text.is_empty() && NEVER_EMPTY.contains(&name) {
        Variable::Empty
    } else if text.is_empty() {
        Variable::Unset
    } else if name.ends_with("_PORT") && LINKS.iter().any(|link| text.starts_with(link)) {
        Variable::ServiceLink
    } else {
        Variable::Set(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_is_one_that_is_not_set_unless_that_opens_a_door() {
        for (name, value, expected) in [
            ("HOST", None, Variable::Unset),
            ("HOST", Some(""), Variable::Unset),
            ("RUST_LOG", Some(""), Variable::Unset),
            ("HOST", Some("x"), Variable::Set("x".into())),
            ("MESH_TLS_DIR", None, Variable::Unset),
            ("MESH_TLS_DIR", Some(""), Variable::Empty),
            ("EDGE_TLS_DIR", Some(""), Variable::Empty),
            ("MESH_ALLOWED_PEERS", Some(""), Variable::Empty),
            ("MESH_ALLOWED_PEERS", Some("a"), Variable::Set("a".into())),
        ] {
            assert_eq!(judge(name, value.map(OsString::from)), expected, "{name}");
        }
    }

    #[test]
    fn a_link_of_kubernetes_is_no_setting() {
        for (name, value, is_link) in [
            ("GRPC_PORT", "tcp://10.0.0.7:50051", true),
            ("ADMIN_PORT", "udp://10.0.0.7:9081", true),
            ("ADMIN_PORT", "sctp://[fd00::7]:9081", true),
            ("ADMIN_PORT", "9081", false),
            ("ADMIN_PORT", "http://10.0.0.7:9081", false),
            ("SERVICE1_CHANNEL", "tcp://10.0.0.7:50051", false),
        ] {
            let variable = judge(name, Some(value.into()));
            assert_eq!(variable == Variable::ServiceLink, is_link, "{name}={value}");
        }
    }
}
