//! Puts names into upper case, and greets them.

use protos::limits;
use tracing::info;

/// The name is longer than [`limits::NAME`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "name has {length} characters; the limit is {}, send a shorter one",
    limits::NAME
)]
pub(crate) struct NameTooLong {
    length: usize,
}

impl NameTooLong {
    fn check(action: &'static str, name: &str) -> Result<(), Self> {
        let length = name.chars().count();
        if length <= limits::NAME {
            return Ok(());
        }
        let error = Self { length };
        info!(action, status = "failure", %error, "name refused");
        Err(error)
    }
}

/// The name in upper case by the rules of Unicode, which can make it longer.
pub(crate) fn process_name(name: &str) -> Result<String, NameTooLong> {
    NameTooLong::check("process_name", name)?;
    let processed_name = name.to_uppercase();
    info!(
        action = "process_name",
        status = "success",
        processed_name,
        "name processed"
    );
    Ok(processed_name)
}

/// The greeting of a name.
pub(crate) fn say_hello(name: &str) -> Result<String, NameTooLong> {
    NameTooLong::check("say_hello", name)?;
    let hello = format!("Hello {name}!");
    info!(
        action = "say_hello",
        status = "success",
        hello,
        "said hello"
    );
    Ok(hello)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_upper_case() {
        assert_eq!(process_name("test").unwrap(), "TEST");
        assert_eq!(process_name("straße").unwrap(), "STRASSE");
        assert_eq!(process_name("łódź ñ").unwrap(), "ŁÓDŹ Ñ");
        assert_eq!(process_name("").unwrap(), "");
    }

    #[test]
    fn names_are_greeted_as_they_are() {
        assert_eq!(say_hello("Gonzalo").unwrap(), "Hello Gonzalo!");
        assert_eq!(say_hello("").unwrap(), "Hello !");
        assert_eq!(say_hello("<b>").unwrap(), "Hello <b>!");
    }

    #[test]
    fn the_limit_counts_characters() {
        let (fits, too_long) = ("é".repeat(1_024), "é".repeat(1_025));
        assert!(process_name(&fits).is_ok() && say_hello(&fits).is_ok());
        let error = Err(NameTooLong { length: 1_025 });
        assert_eq!(process_name(&too_long), error);
        assert_eq!(say_hello(&too_long), error);
    }
}
