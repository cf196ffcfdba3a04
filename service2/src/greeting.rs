//! What service2 does: it greets people by the name that the backend makes of theirs.

use std::fmt::Display;

use tracing::{info, warn};

/// Who processes names.
pub(crate) trait ProcessName {
    /// Why a name could not be processed.
    type Error: Display;

    async fn process_name(&self, name: String) -> Result<String, Self::Error>;
}

/// The greeting for a name.
pub(crate) async fn say_hello<P: ProcessName>(
    processor: &P,
    name: String,
) -> Result<String, P::Error> {
    match processor.process_name(name).await {
        Ok(name) => {
            let hello = format!("Hello, {name}!");
            info!(
                action = "say_hello",
                status = "success",
                hello,
                "said hello"
            );
            Ok(hello)
        }
        Err(error) => {
            warn!(action = "say_hello", status = "failure", %error, "no name to say hello to");
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Reverse;

    impl ProcessName for Reverse {
        type Error = &'static str;

        async fn process_name(&self, name: String) -> Result<String, &'static str> {
            match name.as_str() {
                "nobody" => Err("no such name"),
                name => Ok(name.chars().rev().collect()),
            }
        }
    }

    #[tokio::test]
    async fn the_processed_name_is_greeted() {
        assert_eq!(
            say_hello(&Reverse, "abc".into()).await.unwrap(),
            "Hello, cba!"
        );
        assert_eq!(
            say_hello(&Reverse, String::new()).await.unwrap(),
            "Hello, !"
        );
    }

    #[tokio::test]
    async fn the_error_of_the_backend_is_passed_on() {
        assert_eq!(
            say_hello(&Reverse, "nobody".into()).await,
            Err("no such name")
        );
    }
}
