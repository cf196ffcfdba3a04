//! [`Connection`]: one connection, which follows the scripts of its streams.

use std::collections::BTreeMap;

use bytes::{Buf, BytesMut};
use fastrand::Rng;
use prost::Message;
use tests::frame::{
    ACK, CONNECTION, DATA, END_STREAM, Frame, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, frame,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    select,
    time::{Instant, sleep_until},
};

use super::{
    character::Character,
    draft::Draft,
    manner::{Kind, Manner},
    scripts::{self, Habits, Pings},
    stream::Stream,
};
use crate::{
    proto::Order,
    trace::{Event, Trace},
};

/// The bytes that wait to be sent, from which on nothing is added or read.
pub(super) const MOST_WAITING: usize = 64 * 1_024;

/// The window of HTTP/2 without any settings, in bytes.
const WINDOW: i64 = 65_535;

/// The highest id of a stream.
const HIGHEST: u32 = u32::MAX >> 1;

/// The most answers to pings that wait.
const MOST_ANSWERS: usize = 100;

/// The setting of the window of each stream.
const INITIAL_WINDOW_SIZE: u16 = 4;

/// One connection of a fake replica.
#[derive(Debug)]
pub(super) struct Connection {
    replica: usize,
    character: Character,
    random: Rng,
    trace: Trace,
    pub(super) habits: Habits,
    received: BytesMut,
    pub(super) waiting: BytesMut,
    has_preface: bool,
    pub(super) is_closing: bool,
    /// The streams by their ids. Stream 0 has the script of the connection.
    pub(super) streams: BTreeMap<u32, Stream>,
    /// The highest stream that the client has opened.
    highest: u32,
    /// The highest stream with a call that was processed.
    pub(super) processed: u32,
    /// The last stream that a GOAWAY included.
    pub(super) last: u32,
    /// What the client takes, in bytes.
    pub(super) window: i64,
    initial_window: i64,
}

impl Connection {
    pub(super) fn new(replica: usize, character: Character, random: Rng, trace: Trace) -> Self {
        let mut connection = Self {
            replica,
            character,
            random,
            trace,
            habits: Habits::default(),
            received: BytesMut::new(),
            waiting: BytesMut::new(),
            has_preface: false,
            is_closing: false,
            streams: BTreeMap::new(),
            highest: 0,
            processed: 0,
            last: HIGHEST,
            window: WINDOW,
            initial_window: WINDOW,
        };
        let manner = connection.draw(Kind::Connection);
        connection.note(0, manner);
        connection.follow(0, manner, Order::default());
        connection
    }

    /// Serves the connection until its end.
    pub(super) async fn run(mut self, io: impl AsyncRead + AsyncWrite) {
        let (mut reader, mut writer) = split(io);
        loop {
            self.advance();
            if self.is_closing && self.waiting.is_empty() {
                return;
            }
            let is_full = self.waiting.len() >= MOST_WAITING;
            let due = self.streams.values().filter_map(|stream| stream.due).min();
            let due = due.filter(|_| !is_full);
            let pause = async { sleep_until(due.expect("there is a pause")).await };
            select! {
                biased;
                written = writer.write_buf(&mut self.waiting), if !self.waiting.is_empty() => {
                    if !matches!(written, Ok(1..)) {
                        return;
                    }
                }
                read = reader.read_buf(&mut self.received), if !is_full && !self.is_closing => {
                    if !matches!(read, Ok(1..)) {
                        return;
                    }
                    self.read();
                }
                () = pause, if due.is_some() => {}
            }
            if self.waiting.is_empty() && writer.flush().await.is_err() {
                return;
            }
        }
    }

    /// Follows the scripts as far as possible now.
    fn advance(&mut self) {
        let now = Instant::now();
        let streams: Vec<_> = self.streams.keys().copied().collect();
        for stream in streams {
            while !self.is_closing && self.waiting.len() < MOST_WAITING && self.step(stream, now) {}
        }
        self.streams
            .retain(|number, stream| *number == 0 || !stream.is_over());
    }

    fn read(&mut self) {
        if !self.habits.listens {
            self.received.clear();
            return;
        }
        if !self.has_preface {
            if self.received.len() < PREFACE.len() {
                return;
            }
            self.received.advance(PREFACE.len());
            self.has_preface = true;
        }
        while let Some(frame) = Frame::take(&mut self.received) {
            self.receive(&frame);
        }
    }

    fn receive(&mut self, frame: &Frame) {
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
            let refused = 7_u32.to_be_bytes();
            self.send(&frame(RST_STREAM, 0, stream.to_be_bytes(), &refused));
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

    /// Begins the response to a request, whose first message says what it is: the first field of an
    /// order is a number, that of a health check a string.
    fn begin(&mut self, stream: u32, message: &[u8]) {
        const STRING: u8 = 0x0a;
        if matches!(message, [] | [STRING, ..]) {
            let manner = self.draw(Kind::Health);
            self.note(0, manner);
            return self.follow(stream, manner, Order::default());
        }
        let order = Order::decode(message).unwrap_or_default();
        let mut manner = self.draw(Kind::Call);
        if manner.refuses_by_goodbye() && stream < self.processed {
            // The GOAWAY would include it.
            manner = Manner::Refused;
        }
        self.note(order.call, manner);
        if !manner.refuses() {
            self.processed = self.processed.max(stream);
            self.trace.note(Event::Processed {
                call: order.call,
                replica: self.replica,
            });
        }
        self.follow(stream, manner, order);
    }

    fn draw(&mut self, kind: Kind) -> Manner {
        self.character.next(kind, &mut self.random)
    }

    fn note(&self, call: u64, manner: Manner) {
        self.trace.note(Event::Does {
            replica: self.replica,
            call,
            what: manner.name().to_owned(),
        });
    }

    /// Gives a stream the script of a manner.
    fn follow(&mut self, stream: u32, manner: Manner, order: Order) {
        let mut draft = Draft::new(stream, order, &mut self.random);
        scripts::write(manner, &mut draft, &mut self.habits);
        let script = self.streams.entry(stream).or_insert_with(|| Stream::new(0));
        script.steps.append(&mut draft.steps);
    }
}
