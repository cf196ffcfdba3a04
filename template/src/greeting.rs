//! The domain: greetings. It knows neither HTTP nor gRPC.

use std::fmt;

/// The longest name, in characters.
const MAX_NAME: usize = 1_000;

/// A name is too long to be greeted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NameTooLong(usize);

impl fmt::Display for NameTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(length) = self;
        write!(
            f,
            "The name has {length} characters; the limit is {MAX_NAME}."
        )
    }
}

/// The greeting of a name.
pub(crate) fn greet(name: &str) -> Result<String, NameTooLong> {
    let length = name.chars().count();
    if length > MAX_NAME {
        return Err(NameTooLong(length));
    }
    let greeting = format!("Good day, {name}!");
    tracing::info!(action = "greet", status = "success", greeting);
    Ok(greeting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_greeted() {
        assert_eq!(greet("test"), Ok("Good day, test!".to_owned()));
        assert_eq!(greet(&"a".repeat(1_001)), Err(NameTooLong(1_001)));
    }
}
