//! What service1 does: names in upper case.

use tracing::{info, warn};

/// The longest name that is accepted, in bytes of UTF-8.
pub(crate) const MAX_NAME_BYTES: usize = 1_024;

/// A name is longer than [`MAX_NAME_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("name has {bytes} bytes; the limit is {MAX_NAME_BYTES} bytes of UTF-8, send a shorter one")]
pub(crate) struct NameTooLong {
    bytes: usize,
}

/// The name in upper case, by the rules of Unicode: it may come out longer.
pub(crate) fn process_name(name: &str) -> Result<String, NameTooLong> {
    if name.len() > MAX_NAME_BYTES {
        let error = NameTooLong { bytes: name.len() };
        warn!(action = "process_name", status = "failure", %error, "name refused");
        return Err(error);
    }
    let processed_name = name.to_uppercase();
    info!(
        action = "process_name",
        status = "success",
        processed_name,
        "name processed"
    );
    Ok(processed_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_out_in_upper_case() {
        assert_eq!(process_name("test").unwrap(), "TEST");
        assert_eq!(process_name("straße").unwrap(), "STRASSE");
        assert_eq!(process_name("łódź ñ").unwrap(), "ŁÓDŹ Ñ");
        assert_eq!(process_name("").unwrap(), "");
    }

    #[test]
    fn the_limit_counts_bytes() {
        assert!(process_name(&"é".repeat(512)).is_ok());
        assert_eq!(
            process_name(&"é".repeat(513)),
            Err(NameTooLong { bytes: 1_026 })
        );
    }
}
