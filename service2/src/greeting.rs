//! How service2 greets people: by the name that the backend makes of theirs, or with the words
//! of the backend.

use std::fmt::Display;

use tracing::{info, warn};

/// Who processes names.
pub(crate) trait ProcessName {
    /// Why a name could not be processed.
    type Error: Display;

    async fn process_name(self, name: String) -> Result<String, Self::Error>;
}

/// Who says hello to people.
pub(crate) trait SayHello {
    /// Why somebody could not be greeted.
    type Error: Display;

    async fn say_hello(self, name: String) -> Result<String, Self::Error>;
}

/// The greeting for a name.
pub(crate) async fn say_hello<P: ProcessName>(
    processor: P,
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

/// The words of the backend for a name.
pub(crate) async fn welcome<S: SayHello>(greeter: S, name: String) -> Result<String, S::Error> {
    match greeter.say_hello(name).await {
        Ok(hello) => {
            info!(action = "welcome", status = "success", hello, "welcomed");
            Ok(hello)
        }
        Err(error) => {
            warn!(action = "welcome", status = "failure", %error, "no words to welcome with");
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

        async fn process_name(self, name: String) -> Result<String, &'static str> {
            match name.as_str() {
                "nobody" => Err("no such name"),
                name => Ok(name.chars().rev().collect()),
            }
        }
    }

    #[tokio::test]
    async fn the_processed_name_is_greeted() {
        assert_eq!(
            say_hello(Reverse, "abc".into()).await.unwrap(),
            "Hello, cba!"
        );
        assert_eq!(say_hello(Reverse, String::new()).await.unwrap(), "Hello, !");
    }

    #[tokio::test]
    async fn the_error_of_the_backend_is_passed_on() {
        assert_eq!(
            say_hello(Reverse, "nobody".into()).await,
            Err("no such name")
        );
    }
}
