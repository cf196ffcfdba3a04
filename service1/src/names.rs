//! Puts names into upper case, and greets them.

use tracing::{info, warn};

/// The longest name that is accepted, in bytes of UTF-8.
pub(crate) const MAX_NAME_BYTES: usize = 1_024;

/// The name is longer than [`MAX_NAME_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("name has {bytes} bytes; the limit is {MAX_NAME_BYTES} bytes of UTF-8, send a shorter one")]
pub(crate) struct NameTooLong {
    bytes: usize,
}

impl NameTooLong {
    fn check(action: &'static str, name: &str) -> Result<(), Self> {
        if name.len() <= MAX_NAME_BYTES {
            return Ok(());
        }
        let error = Self { bytes: name.len() };
        warn!(action, status = "failure", %error, "name refused");
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
    fn the_limit_counts_bytes() {
        let (fits, too_long) = ("é".repeat(512), "é".repeat(513));
        assert!(process_name(&fits).is_ok() && say_hello(&fits).is_ok());
        let error = Err(NameTooLong { bytes: 1_026 });
        assert_eq!(process_name(&too_long), error);
        assert_eq!(say_hello(&too_long), error);
    }
}
