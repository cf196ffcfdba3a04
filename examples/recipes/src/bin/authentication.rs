//! How do callers authenticate?
//!
//! One middleware for HTTP and gRPC: it looks the bearer token up, and puts the principal into the
//! extensions of the request, where handlers find it. Without a known token the response is a
//! `Problem` with 401, which gRPC clients get as `UNAUTHENTICATED`. The token is in no log line.

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::{Request, State},
    http::{
        StatusCode,
        header::{AUTHORIZATION, WWW_AUTHENTICATE},
    },
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use clap::{Parser, builder::NonEmptyStringValueParser};
use common::{
    Problem,
    server::{self, Grpc, Listener},
};
use recipes::proto::{
    FILE_DESCRIPTOR_SET,
    notes::{
        GetRequest, Note,
        notes_server::{Notes, NotesServer},
    },
};
use subtle::ConstantTimeEq;
use tonic::Status;

/// Who calls.
#[derive(Debug, Clone)]
struct Principal(String);

/// The tokens and their principals.
#[derive(Clone)]
struct Tokens(Arc<Vec<(String, Principal)>>);

impl Tokens {
    /// The principal of a token. The time that this takes tells no more than the lengths of tokens.
    fn find(&self, token: &[u8]) -> Option<Principal> {
        let all = self.0.iter();
        let found = all.fold(None, |found, (known, principal)| {
            let is_it = known.as_bytes().ct_eq(token);
            if is_it.into() { Some(principal) } else { found }
        });
        found.cloned()
    }
}

async fn authenticate(State(tokens): State<Tokens>, mut request: Request, next: Next) -> Response {
    let header = request.headers().get(AUTHORIZATION);
    let credentials = header.and_then(|header| header.to_str().ok()?.split_once(' '));
    let token = credentials.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer"));
    if let Some(principal) = token.and_then(|(_, token)| tokens.find(token.as_bytes())) {
        request.extensions_mut().insert(principal);
        return next.run(request).await;
    }
    let detail = "The request has no known token; send one as \"Authorization: Bearer …\".";
    let problem = Problem::new(StatusCode::UNAUTHORIZED, detail);
    ([(WWW_AUTHENTICATE, "Bearer")], problem).into_response()
}

async fn show(Extension(Principal(name)): Extension<Principal>) -> String {
    format!("Hello, {name}!")
}

struct Service;

#[tonic::async_trait]
impl Notes for Service {
    async fn get(
        &self,
        request: tonic::Request<GetRequest>,
    ) -> Result<tonic::Response<Note>, Status> {
        let principal = request.extensions().get::<Principal>();
        let Principal(name) = principal.ok_or_else(|| Status::internal("no middleware ran"))?;
        Ok(tonic::Response::new(Note {
            id: None,
            text: format!("a note for {name}"),
        }))
    }
}

fn listeners(tokens: &Tokens) -> [Listener; 2] {
    let authenticate = || from_fn_with_state(tokens.clone(), authenticate);
    let router = Router::new().route("/", get(show)).layer(authenticate());
    let services = Grpc::new(FILE_DESCRIPTOR_SET)
        .add_service(NotesServer::new(Service))
        .layer(authenticate());
    [
        Listener::http(8082, router),
        Listener::grpc(50052, services),
    ]
}

#[derive(Parser)]
struct Config {
    #[command(flatten)]
    common: common::Config,

    /// The token of the only principal
    #[arg(long, env, hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    token: String,
}

fn main() -> std::process::ExitCode {
    let config: Config = common::config::parse();
    let tokens = Tokens(Arc::new(vec![(config.token, Principal("operator".into()))]));
    server::run("authentication", &config.common, move |_process| {
        listeners(&tokens)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::Body;
    use common::{
        client::{self, Channel},
        server::InMemory,
    };
    use recipes::proto::notes::notes_client::NotesClient;
    use tonic::Code;
    use tower::ServiceExt;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    fn tokens() -> Tokens {
        let known = |token: &str, name: &str| (token.into(), Principal(name.into()));
        Tokens(Arc::new(vec![
            known("open-sesame", "ali"),
            known("kaboom", "cassim"),
        ]))
    }

    #[tokio::test]
    async fn over_http_a_token_is_needed() {
        for (header, status) in [
            (Some("Bearer kaboom"), 200),
            (Some("bearer kaboom"), 200),
            (Some("Bearer "), 401),
            (Some("Bearer kaboo"), 401),
            (Some("Basic kaboom"), 401),
            (None, 401),
        ] {
            let service =
                InMemory::new(&common::Config::default(), |_process| listeners(&tokens())).unwrap();
            let mut request = Request::get("/").body(Body::empty()).unwrap();
            let header = header.map(|header| header.parse().unwrap());
            request
                .headers_mut()
                .extend(header.map(|header| (AUTHORIZATION, header)));
            let response = service.stack(0).oneshot(request).await.unwrap();
            assert_eq!(response.status(), status);
            let asks = response.headers().contains_key(WWW_AUTHENTICATE);
            assert_eq!(asks, status == 401);
        }
    }

    #[tokio::test]
    async fn over_grpc_a_token_is_needed() {
        let service =
            InMemory::new(&common::Config::default(), |_process| listeners(&tokens())).unwrap();
        let (target, config) = ("notes:1".parse().unwrap(), client::Config::default());
        let channel = Channel::plain(&target, FILE_DESCRIPTOR_SET, &config, DEADLINE);
        let mut notes = NotesClient::new(channel.with_io(service.connect(1)));

        let refused = notes.get(GetRequest::default()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        let mut request = tonic::Request::new(GetRequest::default());
        let token = "Bearer open-sesame".parse().unwrap();
        request.metadata_mut().insert("authorization", token);
        let note = notes.get(request).await.unwrap().into_inner();
        assert_eq!(note.text, "a note for ali");
    }
}
