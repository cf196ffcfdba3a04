//! How does a type of my own go over the wire, such as `MongoDB`'s `ObjectId`?
//!
//! It is a message in protobuf, 24 hex digits in JSON, and a newtype in the domain. The build script
//! makes the generated code use our type for the message (`extern_path`), which implements
//! `prost::Message`: `recipes::wire`.

use std::str::FromStr;

use axum::{Json, Router, extract::Path, http::StatusCode, routing::get};
use bson::oid;
use clap::Parser;
use common::{
    Problem,
    server::{self, Grpc, Listener},
};
use recipes::{
    proto::{
        FILE_DESCRIPTOR_SET,
        notes::{
            GetRequest, Note,
            notes_server::{Notes, NotesServer},
        },
    },
    wire,
};
use serde::Serialize;
use tonic::{Request, Response, Status};

/// The id of a note: the domain knows neither JSON nor protobuf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NoteId(oid::ObjectId);

/// A text or bytes that are no id.
#[derive(Debug)]
struct InvalidId;

impl FromStr for NoteId {
    type Err = InvalidId;

    fn from_str(hex: &str) -> Result<Self, InvalidId> {
        hex.parse().map(Self).map_err(|_| InvalidId)
    }
}

impl TryFrom<Option<wire::ObjectId>> for NoteId {
    type Error = InvalidId;

    fn try_from(id: Option<wire::ObjectId>) -> Result<Self, InvalidId> {
        id.and_then(|id| id.0).map(Self).ok_or(InvalidId)
    }
}

impl From<InvalidId> for Problem {
    fn from(InvalidId: InvalidId) -> Self {
        let detail = "The id is not an ObjectId: 24 hex digits in JSON, 12 bytes in protobuf.";
        Self::new(StatusCode::BAD_REQUEST, detail)
    }
}

fn text_of(id: NoteId) -> String {
    format!("the note of {}", id.0.timestamp().timestamp_millis())
}

#[derive(Serialize)]
struct Document {
    id: String,
    text: String,
}

async fn show(Path(id): Path<String>) -> Result<Json<Document>, Problem> {
    let id: NoteId = id.parse()?;
    let document = Document {
        id: id.0.to_hex(),
        text: text_of(id),
    };
    Ok(Json(document))
}

struct Service;

#[tonic::async_trait]
impl Notes for Service {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Note>, Status> {
        let id = NoteId::try_from(request.into_inner().id).map_err(Problem::from)?;
        Ok(Response::new(Note {
            id: Some(wire::ObjectId(Some(id.0))),
            text: text_of(id),
        }))
    }
}

fn listeners() -> [Listener; 2] {
    let router = Router::new().route("/notes/{id}", get(show));
    let services = Grpc::new(FILE_DESCRIPTOR_SET).add_service(NotesServer::new(Service));
    [
        Listener::http(8082, router),
        Listener::grpc(50052, services),
    ]
}

#[derive(Parser)]
struct Config {
    #[command(flatten)]
    common: common::Config,
}

fn main() -> std::process::ExitCode {
    let config: Config = common::config::parse();
    server::run("object_id", &config.common, |_process| listeners())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::{Body, to_bytes};
    use common::{
        client::{self, Channel},
        server::InMemory,
    };
    use prost::Message;
    use recipes::proto::notes::notes_client::NotesClient;
    use tonic::Code;
    use tower::ServiceExt;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);
    const HEX: &str = "65f0c0ffee0123456789abcd";

    async fn get(id: &str) -> (StatusCode, String) {
        let service = InMemory::new(&common::Config::default(), |_process| listeners()).unwrap();
        let request = axum::http::Request::get(format!("/notes/{id}")).body(Body::empty());
        let response = service.stack(0).oneshot(request.unwrap()).await.unwrap();
        let status = response.status();
        let body = to_bytes(Body::new(response.into_body()), 1_000)
            .await
            .unwrap();
        (status, String::from_utf8(body.into()).unwrap())
    }

    #[tokio::test]
    async fn in_json_it_is_24_hex_digits() {
        let (status, text) = get(HEX).await;
        assert_eq!(status, StatusCode::OK);
        assert!(text.contains(&format!(r#""id":"{HEX}""#)), "{text}");
        for invalid in ["65f0c0ffee0123456789abc", "65f0c0ffee0123456789abcg", "1"] {
            let (status, text) = get(invalid).await;
            assert_eq!(status, StatusCode::BAD_REQUEST);
            assert!(text.contains("24 hex digits"), "{text}");
        }
    }

    #[tokio::test]
    async fn in_protobuf_it_is_a_message() {
        let service = InMemory::new(&common::Config::default(), |_process| listeners()).unwrap();
        let (target, config) = ("notes:1".parse().unwrap(), client::Config::default());
        let channel = Channel::plain(&target, FILE_DESCRIPTOR_SET, &config, DEADLINE);
        let mut notes = NotesClient::new(channel.with_io(service.connect(1)));

        let id = Some(wire::ObjectId(Some(HEX.parse().unwrap())));
        let note = notes.get(GetRequest { id }).await.unwrap().into_inner();
        assert_eq!(note.id, id);
        for id in [None, Some(wire::ObjectId(None))] {
            let status = notes.get(GetRequest { id }).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains("12 bytes"), "{status}");
        }
    }

    #[test]
    fn bytes_of_another_length_are_no_id() {
        let id = wire::ObjectId(Some(HEX.parse().unwrap()));
        let bytes = id.encode_to_vec();
        assert_eq!(bytes[..2], [0x0A, 12]);
        assert_eq!(wire::ObjectId::decode(&*bytes).unwrap(), id);
        let short = [&[0x0A, 11], &bytes[2..13]].concat();
        assert_eq!(
            wire::ObjectId::decode(&*short).unwrap(),
            wire::ObjectId(None)
        );
    }
}
