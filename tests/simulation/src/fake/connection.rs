//! [`Connection`]: one connection, which follows the scripts of its streams.

use std::{collections::BTreeMap, time::Duration};

use bytes::{Buf, BytesMut};
use fastrand::Rng;
use prost::Message;
use tests::frame::{Frame, PREFACE};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    select,
    time::{Instant, sleep_until},
};

use super::{
    character::Character,
    draft::Draft,
    manner::{Kind, Manner},
    scripts::{self, Habits},
    step::Step,
    stream::Stream,
};
use crate::{
    proto::Order,
    trace::{Event, Trace},
};

/// The bytes that wait to be sent, from which on nothing is added or read.
pub(super) const MOST_WAITING: usize = 64 * 1_024;

/// The room for the bytes of a read.
const READ: usize = 16 * 1_024;

/// The window of HTTP/2 without any settings, in bytes.
const WINDOW: i64 = 65_535;

/// What comes within this time after a connection hangs was sent before.
const LAST_ON_THE_WAY: Duration = Duration::from_secs(5);

/// The longest time for which a client uses a connection that hangs: it asks, sends a PING, and waits for
/// 20 s.
const LONGEST_HANG: Duration = Duration::from_secs(30);

/// The highest id of a stream.
const HIGHEST: u32 = u32::MAX >> 1;

/// One connection of a fake replica.
#[derive(Debug)]
pub(super) struct Connection {
    replica: usize,
    character: Character,
    pub(super) random: Rng,
    trace: Trace,
    pub(super) habits: Habits,
    received: BytesMut,
    pub(super) waiting: BytesMut,
    has_preface: bool,
    pub(super) is_closing: bool,
    /// The streams by their ids. Stream 0 has the script of the connection.
    pub(super) streams: BTreeMap<u32, Stream>,
    /// The highest stream that the client has opened.
    pub(super) highest: u32,
    /// The highest stream with a call that was processed.
    pub(super) processed: u32,
    /// The last stream that a GOAWAY included.
    pub(super) last: u32,
    /// Since when it hangs.
    pub(super) muted: Option<Instant>,
    /// When something came first while it hung.
    used_mute: Option<Instant>,
    /// Whether nothing was wrong so far.
    is_kind: bool,
    /// What the client takes, in bytes.
    pub(super) window: i64,
    /// What the client takes on a new stream, in bytes.
    pub(super) initial_window: i64,
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
            muted: None,
            used_mute: None,
            is_kind: true,
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
            self.received.reserve(READ);
            let goes_on = self.goes_on();
            let due = self.streams.values().filter_map(|stream| stream.due).min();
            let due = due.filter(|_| goes_on);
            let pause = async { sleep_until(due.expect("there is a pause")).await };
            select! {
                biased;
                written = writer.write_buf(&mut self.waiting), if !self.waiting.is_empty() => {
                    if !matches!(written, Ok(1..)) {
                        return;
                    }
                }
                read = reader.read_buf(&mut self.received), if goes_on => {
                    if !matches!(read, Ok(1..)) {
                        self.note_end();
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

    /// Whether it reads and follows the scripts, and does not only send what waits.
    fn goes_on(&self) -> bool {
        !self.is_closing && self.waiting.len() < MOST_WAITING
    }

    /// Notes that the client has ended the connection with calls on it.
    fn note_end(&self) {
        let calls = self.streams.iter().filter(|(number, stream)| {
            let waits_for_client = matches!(stream.steps.front(), None | Some(Step::RequestEnd));
            **number > 0 && !waits_for_client
        });
        let calls = calls.count();
        if self.is_kind && calls > 0 {
            let replica = self.replica;
            self.trace.note(Event::CutOff { replica, calls });
        }
    }

    /// Follows the scripts as far as possible now.
    fn advance(&mut self) {
        let now = Instant::now();
        let streams: Vec<_> = self.streams.keys().copied().collect();
        for stream in streams {
            while self.goes_on() && self.step(stream, now) {}
        }
        self.streams
            .retain(|number, stream| *number == 0 || !stream.is_over());
    }

    fn read(&mut self) {
        if !self.habits.listens {
            let is_late = |muted: Instant| muted.elapsed() > LAST_ON_THE_WAY;
            if self.muted.is_some_and(is_late) {
                self.used_mute.get_or_insert_with(Instant::now);
            }
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

    /// Begins the response to a request, whose first message says what it is: the first field of an
    /// order is a number, that of a health check a string.
    pub(super) fn begin(&mut self, stream: u32, message: &[u8]) {
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
        let manner = self.character.next(kind, &mut self.random);
        self.is_kind &= manner.is_kind();
        manner
    }

    fn note(&self, call: u64, manner: Manner) {
        self.trace.note(Event::Does {
            replica: self.replica,
            call,
            what: manner.name().to_owned(),
        });
    }

    /// Gives a stream the script of a manner.
    pub(super) fn follow(&mut self, stream: u32, manner: Manner, order: Order) {
        let mut draft = Draft::new(stream, order, &mut self.random);
        scripts::write(manner, &mut draft, &mut self.habits);
        let script = self.streams.entry(stream).or_insert_with(|| Stream::new(0));
        script.steps.append(&mut draft.steps);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let hung = self.used_mute.map(|used| used.elapsed());
        let hung = hung.unwrap_or_default();
        if hung > LONGEST_HANG {
            let replica = self.replica;
            self.trace.violation(format!(
                "a connection to {replica} hangs for {hung:?}, and is still there"
            ));
        }
    }
}
