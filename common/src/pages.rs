//! What the pages of a service share: the [links](Links) between them, their style sheet and icon,
//! and `plain.html` around `/status` and `/docs`.

use std::net::{IpAddr, Ipv4Addr};

use askama::Template;
use axum::response::IntoResponse;
use http::{
    HeaderMap,
    header::{CACHE_CONTROL, CONTENT_TYPE, HOST},
};

use crate::{endpoints, ports::Ports};

/// The media type of a page.
pub(crate) const HTML: &str = "text/html; charset=utf-8";

/// The style sheet.
pub(crate) fn style() -> impl IntoResponse {
    let headers = [(CONTENT_TYPE, "text/css"), (CACHE_CONTROL, "max-age=300")];
    (headers, include_str!("../assets/plain.css"))
}

/// The icon.
pub(crate) fn icon() -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, "image/svg+xml"),
        (CACHE_CONTROL, "max-age=300"),
    ];
    (headers, include_str!("../assets/icon.svg"))
}

/// A page of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// The page that the service has at `/`.
    Own,
    /// The description of the API.
    Docs,
    /// The page of the port for operators.
    Status,
}

/// The links between the pages of a service, as a `nav` of HTML: a template writes it with
/// `{{ links|safe }}`.
///
/// Only a browser on the same machine gets a link from one port to another, such as from a page to
/// `/status`: the port for operators is on loopback, unless `ADMIN_HOST` is set.
///
/// ```
/// use common::{pages::{Links, Page}, server::Ports};
/// use http::{HeaderMap, HeaderValue};
///
/// let ports = Ports::default(); // in a service: those of the worker
/// let headers = HeaderMap::from_iter([(http::header::HOST, HeaderValue::from_static("a.org"))]);
/// assert_eq!(Links::new(&ports, Page::Own, &headers).to_string(), "");
/// ```
#[derive(Debug, Template)]
#[template(path = "links.html")]
pub struct Links {
    links: Vec<Link>,
}

#[derive(Debug, PartialEq, Eq)]
struct Link {
    name: &'static str,
    target: String,
    is_here: bool,
}

impl Links {
    /// The links of the page `here`, for the client that sent these headers.
    pub fn new(ports: &Ports, here: Page, headers: &HeaderMap) -> Self {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = host.and_then(name_of_loopback);
        let at = |page| {
            let path = match page {
                Page::Own => "/",
                Page::Docs => endpoints::DOCS,
                Page::Status => endpoints::STATUS,
            };
            if (page == Page::Status) == (here == Page::Status) {
                return Some(path.to_owned());
            }
            let bound = ports.bound()?;
            let (port, scheme) = if page == Page::Status {
                let admin = bound.admin.filter(|admin| is_on_loopback(admin.ip()))?;
                (admin.port(), "http")
            } else {
                let http = bound.http?;
                (http.number, if http.speaks_tls { "https" } else { "http" })
            };
            Some(format!("{scheme}://{}:{port}{path}", host?))
        };
        let has_own = ports.pages().is_some_and(|pages| pages.has_own);
        let pages = [
            (Page::Own, "page", has_own),
            (Page::Docs, "docs", ports.pages().is_some()),
            (Page::Status, "status", true),
        ];
        let links = pages.into_iter().filter(|(.., is_there)| *is_there);
        let links = links.filter_map(|(page, name, _)| {
            Some(Link {
                name,
                target: at(page)?,
                is_here: page == here,
            })
        });
        let links: Vec<_> = links.collect();
        let leads_elsewhere = links.iter().any(|link| !link.is_here);
        Self {
            links: if leads_elsewhere { links } else { Vec::new() },
        }
    }
}

/// Whether clients on this machine reach a listener on the address through loopback.
fn is_on_loopback(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified()
}

/// The host of a `Host` header, without the port, if it names loopback.
fn name_of_loopback(host: &str) -> Option<&str> {
    let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
    let name = if port.bytes().all(|byte| byte.is_ascii_digit()) {
        name
    } else {
        host
    };
    let is_loopback = |address: Ipv4Addr| address.is_loopback();
    let is_it = name.eq_ignore_ascii_case("localhost")
        || name == "[::1]"
        || name.parse().is_ok_and(is_loopback);
    is_it.then_some(name)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::ports::{Bound, Port};

    fn ports(admin: &str) -> Ports {
        let ports = Ports::default();
        ports.note_bound(Bound {
            http: Some(Port {
                number: 8081,
                speaks_tls: true,
            }),
            grpc: None,
            admin: Some(admin.parse().expect("an address")),
        });
        ports
    }

    fn targets(ports: &Ports, here: Page, host: &'static str) -> Vec<String> {
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
        let links = Links::new(ports, here, &headers).links;
        links.into_iter().map(|link| link.target).collect()
    }

    #[cfg(feature = "openapi")]
    #[test]
    fn a_browser_on_this_machine_gets_links_to_the_other_port() {
        use crate::ports::Pages;

        let ports = ports("127.0.0.1:9081");
        ports.note_pages(Pages { has_own: true });
        for (host, name) in [
            ("localhost:8081", "localhost"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]:1", "[::1]"),
        ] {
            let status = format!("http://{name}:9081/status");
            assert_eq!(targets(&ports, Page::Docs, host), ["/", "/docs", &status]);
            let page = format!("https://{name}:8081");
            let shown = targets(&ports, Page::Status, host);
            assert_eq!(
                shown,
                [format!("{page}/"), format!("{page}/docs"), "/status".into()]
            );
        }
        for host in [
            "a.org",
            "10.0.0.1:8081",
            "localhost.a.org",
            "",
            "127.0.0.1:x",
            "\"127.1",
        ] {
            assert_eq!(targets(&ports, Page::Own, host), ["/", "/docs"], "{host}");
            assert!(targets(&ports, Page::Status, host).is_empty(), "{host}");
        }
    }

    #[test]
    fn a_port_that_is_not_on_loopback_has_no_link() {
        assert!(targets(&ports("10.0.0.1:9081"), Page::Docs, "localhost").is_empty());
        let anywhere = targets(&ports("0.0.0.0:9081"), Page::Docs, "localhost");
        assert_eq!(anywhere, ["http://localhost:9081/status"]);
    }
}
