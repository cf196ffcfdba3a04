//! [`Origins`]: the sites whose scripts may call the REST face from a browser.

use std::{str::FromStr, time::Duration};

use common::RequestId;
use http::{HeaderName, HeaderValue, Method, Uri};
use tower_http::cors::CorsLayer;

/// How long a browser may keep the response to a preflight.
const MAX_AGE: Duration = Duration::from_mins(10);

/// The origins of sites, as browsers send them: `https://shop.example`, separated by commas.
#[derive(Debug, Clone)]
pub(crate) struct Origins(Vec<HeaderValue>);

/// The text is no list of origins.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no origin; give exact origins as browsers send them, separated by commas: a scheme, a host \
     in lower case, and a port if it is not the usual one, such as https://shop.example"
)]
pub(crate) struct InvalidOrigin(String);

impl FromStr for Origins {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let origins = text.split(',').map(str::trim).map(|origin| {
            let value = is_origin(origin).then(|| HeaderValue::from_str(origin).ok());
            value.flatten().ok_or_else(|| InvalidOrigin(origin.into()))
        });
        origins.collect::<Result<_, _>>().map(Self)
    }
}

/// Whether a browser sends this text as an origin (RFC 6454, 6.2). It compares origins byte by byte.
fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else {
        return false;
    };
    let usual_port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    let Some(authority) = text
        .parse::<Uri>()
        .ok()
        .and_then(|uri| uri.into_parts().authority)
    else {
        return false;
    };
    let port = authority.port_u16();
    let rest = host.strip_prefix(authority.host());
    let is_exact = match (rest, port) {
        (Some(""), None) => true,
        (Some(rest), Some(port)) => port != usual_port && rest == format!(":{port}"),
        _ => false,
    };
    is_exact
        && !host.contains(|letter: char| letter.is_ascii_uppercase() || !letter.is_ascii_graphic())
        && !host.contains(['*', '@', '%'])
}

impl Origins {
    /// Lets the scripts of these sites read what the REST face responds, failures included. They send no
    /// cookies and no other credentials: there are none.
    pub(crate) fn layer(&self) -> CorsLayer {
        CorsLayer::new()
            .allow_origin(self.0.clone())
            .allow_methods([Method::GET])
            .allow_headers([
                RequestId::HTTP_HEADER,
                HeaderName::from_static("traceparent"),
            ])
            .expose_headers([
                RequestId::HTTP_HEADER,
                HeaderName::from_static("server-timing"),
            ])
            .max_age(MAX_AGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_as_browsers_send_them() {
        for valid in [
            "https://shop.example",
            "http://localhost:3000",
            "http://127.0.0.1:8090",
            "http://[::1]:8090",
            "https://shop.example, https://xn--bcher-kva.example:8443",
        ] {
            assert!(valid.parse::<Origins>().is_ok(), "{valid}");
        }
        for (invalid, named) in [
            ("", ""),
            ("*", "*"),
            ("null", "null"),
            ("shop.example", "shop.example"),
            ("https://", "https://"),
            ("https://shop.example/", "https://shop.example/"),
            ("https://shop.example/cart", "https://shop.example/cart"),
            ("https://shop.example?a", "https://shop.example?a"),
            ("https://Shop.example", "https://Shop.example"),
            ("HTTPS://shop.example", "HTTPS://shop.example"),
            ("https://shop.example:443", "https://shop.example:443"),
            ("http://shop.example:80", "http://shop.example:80"),
            ("https://shop.example:", "https://shop.example:"),
            ("https://shop.example:08443", "https://shop.example:08443"),
            ("https://*.example", "https://*.example"),
            ("https://me@shop.example", "https://me@shop.example"),
            ("https://b\u{fc}cher.example", "https://b\u{fc}cher.example"),
            ("ftp://shop.example", "ftp://shop.example"),
            (
                "https://shop.example https://b.example",
                "https://shop.example https://b.example",
            ),
            ("https://shop.example,", ""),
            (
                "https://shop.example,https://b.example/",
                "https://b.example/",
            ),
        ] {
            let error = invalid.parse::<Origins>().expect_err(invalid);
            assert_eq!(error, InvalidOrigin(named.to_owned()));
        }
    }
}
