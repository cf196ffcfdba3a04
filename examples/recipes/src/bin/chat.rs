//! How does a stream in both directions last, and end with the service?
//!
//! Its method declares that it has no deadline: `(mesh.deadline) = "none"` in `protos/chat.proto`.
//! `context::draining()` ends it in the drain, so clients see the end of the stream and no failure.

use std::{future::ready, pin::Pin};

use clap::Parser;
use common::{
    context,
    server::{self, Grpc, Listener},
};
use futures_util::{Stream, StreamExt, stream};
use recipes::proto::{
    FILE_DESCRIPTOR_SET,
    chat::{
        Line,
        chat_server::{self, ChatServer},
    },
};
use tokio::sync::broadcast;
use tonic::{Request, Response, Status, Streaming};

/// The lines that wait for a slow client, which then misses the oldest.
const WAITING: usize = 64;

/// Where the lines of all clients go.
struct Chat(broadcast::Sender<Line>);

/// What happens in the stream of a client.
enum Event {
    /// The client gets a line.
    Line(Result<Line, Status>),
    /// The client has said something.
    Said,
    /// The client has ended its side.
    End,
}

impl Event {
    fn line(self) -> Option<Result<Line, Status>> {
        match self {
            Self::Line(line) => Some(line),
            Self::Said | Self::End => None,
        }
    }
}

#[tonic::async_trait]
impl chat_server::Chat for Chat {
    type TalkStream = Pin<Box<dyn Stream<Item = Result<Line, Status>> + Send>>;

    async fn talk(
        &self,
        request: Request<Streaming<Line>>,
    ) -> Result<Response<Self::TalkStream>, Status> {
        let room = self.0.clone();
        let heard = stream::unfold(room.subscribe(), async |mut room| {
            loop {
                match room.recv().await {
                    Ok(line) => return Some((Event::Line(Ok(line)), room)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        // What the client says is read in the same task: it ends with the stream.
        let said = request.into_inner().map(move |line| match line {
            Ok(line) => {
                let _ = room.send(line); // someone listens: this client
                Event::Said
            }
            Err(status) => Event::Line(Err(status)),
        });
        let said = said.chain(stream::once(async { Event::End }));
        let events = stream::select(said, heard);
        let events = events.take_while(|event| ready(!matches!(event, Event::End)));
        let lines = events.filter_map(|event| ready(event.line()));
        let lines = lines.take_until(Box::pin(context::draining()));
        Ok(Response::new(Box::pin(lines)))
    }
}

#[derive(Parser)]
struct Config {
    #[command(flatten)]
    common: common::Config,
}

fn main() -> std::process::ExitCode {
    let config: Config = common::config::parse();
    let room = broadcast::Sender::new(WAITING);
    server::run("chat", &config.common, move |_process| {
        [listener(50052, &room)]
    })
}

fn listener(port: u16, room: &broadcast::Sender<Line>) -> Listener {
    let chat = ChatServer::new(Chat(room.clone()));
    Listener::grpc(port, Grpc::new(FILE_DESCRIPTOR_SET).add_service(chat))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use common::client::{self, Channel, Client};
    use recipes::proto::chat::chat_client::ChatClient;
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    /// A client in the room: what it says, and what it hears.
    struct Talk {
        say: mpsc::UnboundedSender<Line>,
        heard: Streaming<Line>,
    }

    impl Talk {
        async fn begin(client: Client) -> Self {
            let (say, said) = mpsc::unbounded_channel();
            let said = stream::unfold(said, async |mut said| Some((said.recv().await?, said)));
            let heard = ChatClient::new(client)
                .talk(said)
                .await
                .unwrap()
                .into_inner();
            Self { say, heard }
        }

        async fn hear(&mut self) -> String {
            self.heard.next().await.unwrap().unwrap().text
        }
    }

    #[tokio::test]
    async fn all_hear_what_one_says_until_the_service_drains() {
        let config = common::Config {
            deadline: Duration::from_millis(100),
            ..common::Config::default()
        };
        let room = broadcast::Sender::new(WAITING);
        let server = server::bind(&config, move |_process| [listener(0, &room)]).unwrap();
        let port = server.addresses()[0].port();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(server.serve(async { drop(stopped.await) }));

        let target = format!("127.0.0.1:{port}").parse().unwrap();
        let (config, deadline) = (client::Config::default(), Duration::from_secs(10));
        let channel = Channel::plain(&target, FILE_DESCRIPTOR_SET, &config, deadline);
        let mut ali = Talk::begin(channel.connect()).await;
        let mut cassim = Talk::begin(channel.connect()).await;
        for text in ["open", "sesame"] {
            ali.say.send(Line { text: text.into() }).unwrap();
            assert_eq!(ali.hear().await, text);
            assert_eq!(cassim.hear().await, text);
            // Longer than the deadline of the service.
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        drop(ali.say);
        assert!(ali.heard.next().await.is_none(), "the client has ended it");
        stop.send(()).unwrap();
        assert!(
            cassim.heard.next().await.is_none(),
            "an end, and no failure"
        );
        serving.await.unwrap().unwrap();
    }
}
