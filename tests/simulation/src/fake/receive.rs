//! How a [`Connection`] receives a frame.

use tests::frame::{
    ACK, CONNECTION, DATA, END_STREAM, Frame, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    frame,
};

use super::{connection::Connection, draft::Draft, manner::Manner, scripts::Pings, stream::Stream};
use crate::proto::Order;

/// The most answers to pings that wait.
const MOST_ANSWERS: usize = 100;

/// The setting of the window of each stream.
const INITIAL_WINDOW_SIZE: u16 = 4;

/// The error code that refuses a stream.
const REFUSED_STREAM: u32 = 7;

impl Connection {
    /// Receives a frame.
    pub(super) fn receive(&mut self, frame: &Frame) {
        let stream = u32::from_be_bytes(frame.stream);
        let ends = frame.flags & END_STREAM != 0;
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => self.receive_settings(&frame.payload),
            PING if frame.flags & ACK == 0 => self.receive_ping(frame),
            WINDOW_UPDATE => {
                let Some(grows) = frame.payload.first_chunk::<4>() else {
                    return;
                };
                let grows = i64::from(u32::from_be_bytes(*grows));
                if stream == 0 {
                    self.window += grows;
                } else if let Some(stream) = self.streams.get_mut(&stream) {
                    stream.window += grows;
                }
            }
            HEADERS if stream > self.highest => {
                self.highest = stream;
                self.open(stream);
                self.receive_data(stream, &[], ends);
            }
            HEADERS => self.receive_data(stream, &[], ends),
            DATA => {
                self.grant(stream, frame.payload.len());
                self.receive_data(stream, &frame.payload, ends);
            }
            RST_STREAM => {
                let goes_on = self
                    .streams
                    .get_mut(&stream)
                    .is_some_and(Stream::note_reset);
                if stream != 0 && !goes_on {
                    self.streams.remove(&stream);
                }
            }
            _ => {}
        }
    }

    fn receive_settings(&mut self, settings: &[u8]) {
        for setting in settings.chunks_exact(6) {
            let &[a, b, value @ ..] = setting.first_chunk::<6>().expect("it has six bytes");
            if u16::from_be_bytes([a, b]) == INITIAL_WINDOW_SIZE {
                let window = i64::from(u32::from_be_bytes(value));
                for stream in self.streams.values_mut() {
                    stream.window += window - self.initial_window;
                }
                self.initial_window = window;
            }
        }
        if self.habits.acknowledges {
            self.send(&frame(SETTINGS, ACK, CONNECTION, &[]));
        }
    }

    fn receive_ping(&mut self, ping: &Frame) {
        let script = self.streams.entry(0).or_insert_with(|| Stream::new(0));
        if script.steps.len() > MOST_ANSWERS {
            return;
        }
        let mut draft = Draft::new(0, Order::default(), &mut self.random);
        match self.habits.pings {
            Pings::Answered => return self.send(&frame(PING, ACK, CONNECTION, &ping.payload)),
            Pings::Unanswered => {}
            Pings::Late => {
                draft.pause_between(100, 25_000);
                draft.frame(PING, ACK, ping.payload.clone());
            }
            Pings::OtherBytes => {
                let noise = draft.noise(8);
                draft.frame(PING, ACK, noise);
            }
        }
        script.steps.append(&mut draft.steps);
    }

    fn send(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// Lets the client send so many bytes more.
    fn grant(&mut self, stream: u32, length: usize) {
        if !self.habits.grants || length == 0 {
            return;
        }
        let length = u32::try_from(length).expect("a frame is short");
        self.send(&frame(WINDOW_UPDATE, 0, CONNECTION, &length.to_be_bytes()));
        if self.streams.get(&stream).is_some_and(|it| !it.has_ended) {
            let id = stream.to_be_bytes();
            self.send(&frame(WINDOW_UPDATE, 0, id, &length.to_be_bytes()));
        }
    }

    /// Opens a stream, unless it is one too many or a GOAWAY has refused it.
    fn open(&mut self, stream: u32) {
        if stream > self.last {
            return;
        }
        let open = self.streams.keys().filter(|stream| **stream > 0).count();
        if open >= self.habits.max_streams {
            let id = stream.to_be_bytes();
            self.send(&frame(RST_STREAM, 0, id, &REFUSED_STREAM.to_be_bytes()));
            return;
        }
        self.streams
            .insert(stream, Stream::new(self.initial_window));
    }

    fn receive_data(&mut self, number: u32, data: &[u8], ends: bool) {
        let Some(stream) = self.streams.get_mut(&number).filter(|_| number > 0) else {
            return;
        };
        stream.has_ended |= ends;
        let message = stream.receive(data);
        let has_none = stream.has_ended && !stream.has_begun;
        if number > self.last {
            self.streams.remove(&number);
        } else if let Some(message) = message {
            self.begin(number, &message);
        } else if has_none {
            stream.has_begun = true;
            self.follow(number, Manner::NoMessage, Order::default());
        }
    }
}
