//! Greets people: by the name that the backend has processed, or in the backend's own words.

use tracing::info;

use crate::failure::{self, Failure};

/// A backend that processes names.
pub(crate) trait ProcessName {
    type Error: Failure;

    async fn process_name(self, name: String) -> Result<String, Self::Error>;
}

/// A backend that greets people in its own words.
pub(crate) trait SayHello {
    type Error: Failure;

    async fn say_hello(self, name: String) -> Result<String, Self::Error>;
}

/// The greeting of the processed name.
pub(crate) async fn say_hello<P: ProcessName>(
    processor: P,
    name: String,
) -> Result<String, P::Error> {
    let name = processor.process_name(name).await.inspect_err(|error| {
        failure::log("say_hello", error, "no name to say hello to");
    })?;
    let hello = format!("Hello, {name}!");
    info!(
        action = "say_hello",
        status = "success",
        hello,
        "said hello"
    );
    Ok(hello)
}

/// The greeting in the words of the backend.
pub(crate) async fn welcome<S: SayHello>(greeter: S, name: String) -> Result<String, S::Error> {
    let hello = greeter.say_hello(name).await.inspect_err(|error| {
        failure::log("welcome", error, "no words to welcome with");
    })?;
    info!(action = "welcome", status = "success", hello, "welcomed");
    Ok(hello)
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
