//! The domain: greetings. It knows neither HTTP nor gRPC.

use std::future::Future;

use tracing::{info, warn};

/// The longest name, in characters.
pub(crate) const MAX_NAME: usize = 1_000;

/// Puts names into upper case.
pub(crate) trait UpperCase {
    type Error;

    fn upper_case(self, name: String) -> impl Future<Output = Result<String, Self::Error>> + Send;
}

/// The reason why a name is not greeted. `E` is the error of [`UpperCase`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotGreeted<E> {
    #[error("The name has {0} characters; the limit is {MAX_NAME}.")]
    TooLong(usize),
    #[error("there is no upper case of the name")]
    NoUpperCase(E),
}

/// The greeting of a name.
pub(crate) async fn greet<U: UpperCase>(
    service: U,
    name: String,
) -> Result<String, NotGreeted<U::Error>> {
    let length = name.chars().count();
    if length > MAX_NAME {
        return Err(NotGreeted::TooLong(length));
    }
    let name = service.upper_case(name).await.map_err(|error| {
        warn!(action = "greet", status = "failure", "no name to greet");
        NotGreeted::NoUpperCase(error)
    })?;
    let greeting = format!("Good day, {name}!");
    info!(action = "greet", status = "success", greeting);
    Ok(greeting)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Knows the upper case of all names but the empty one.
    struct Ascii;

    impl UpperCase for Ascii {
        type Error = &'static str;

        async fn upper_case(self, name: String) -> Result<String, &'static str> {
            let is_known = !name.is_empty();
            is_known.then(|| name.to_ascii_uppercase()).ok_or("empty")
        }
    }

    #[tokio::test]
    async fn a_name_is_greeted() {
        let greet = async |name: String| greet(Ascii, name).await;
        assert_eq!(greet("test".into()).await, Ok("Good day, TEST!".to_owned()));
        assert_eq!(
            greet("a".repeat(1_001)).await,
            Err(NotGreeted::TooLong(1_001))
        );
        assert_eq!(
            greet(String::new()).await,
            Err(NotGreeted::NoUpperCase("empty"))
        );
    }
}
