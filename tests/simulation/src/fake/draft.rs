//! [`Draft`]: a script in the making.

use std::{collections::VecDeque, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use fastrand::Rng;
use prost::Message;
use tests::frame::{DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM};

use super::{
    hpack,
    step::{Last, Step},
};
use crate::proto::{Order, Reply};

/// The head of a good response.
pub(super) const HEAD: [(&str, &str); 2] =
    [(":status", "200"), ("content-type", "application/grpc")];

/// The longest frame that the client takes.
pub(super) const LONGEST_FRAME: usize = 16 * 1_024;

/// The most payload of a reply, however much the order asks for, in bytes.
const MOST_PAYLOAD: u32 = 3 * 1_024 * 1_024;

/// The most replies, however many the order asks for.
const MOST_REPLIES: u32 = 10_000;

/// A script in the making, for a stream or for the connection (stream 0).
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) stream: u32,
    pub(super) order: Order,
    pub(super) random: &'a mut Rng,
    pub(super) steps: VecDeque<Step>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(stream: u32, order: Order, random: &'a mut Rng) -> Self {
        Self {
            stream,
            order,
            random,
            steps: VecDeque::new(),
        }
    }

    /// Waits for the end of the request, and for the time that the order says.
    pub(super) fn begin(&mut self) {
        self.steps.push_back(Step::RequestEnd);
        self.pause(Duration::from_millis(self.order.delay_ms.into()));
    }

    pub(super) fn pause(&mut self, pause: Duration) {
        if !pause.is_zero() {
            self.steps.push_back(Step::Pause(pause));
        }
    }

    /// Waits for a time between these, in milliseconds.
    pub(super) fn pause_between(&mut self, least: u64, most: u64) {
        let millis = self.random.u64(least..=most);
        self.pause(Duration::from_millis(millis));
    }

    /// Waits for a moment, or not at all: what comes together is read together.
    pub(super) fn pause_maybe(&mut self) {
        if self.random.bool() {
            self.pause_between(1, 50);
        }
    }

    /// The response that the order asks for.
    pub(super) fn respond(&mut self) {
        self.respond_in_frames(LONGEST_FRAME);
    }

    /// The response that the order asks for, in frames of this size.
    pub(super) fn respond_in_frames(&mut self, frame: usize) {
        let code = self.order.code;
        if code != 0 && self.order.replies == 0 {
            return self.end(&[("grpc-status", &code.to_string())]);
        }
        self.head();
        self.messages(frame);
        self.trailers(code);
    }

    /// The head of a good response.
    pub(super) fn head(&mut self) {
        self.fields(0, &HEAD);
    }

    /// HEADERS with these fields.
    pub(super) fn fields(&mut self, flags: u8, fields: &[(&str, &str)]) {
        self.frame(HEADERS, END_HEADERS | flags, hpack::block(fields));
    }

    /// Fields that are the end of the response, after a head or as the head.
    pub(super) fn end(&mut self, fields: &[(&str, &str)]) {
        let mut fields = fields.to_vec();
        if self.random.bool() {
            self.head();
            self.pause_maybe();
        } else {
            fields.splice(0..0, HEAD);
        }
        self.fields(END_STREAM, &fields);
    }

    /// The trailers of a response that has a head.
    pub(super) fn trailers(&mut self, code: u32) {
        self.fields(END_STREAM, &[("grpc-status", &code.to_string())]);
    }

    /// The reply that the order asks for, with its prefix.
    pub(super) fn reply(&self) -> Bytes {
        let reply = Reply {
            call: self.order.call,
            payload: vec![0; self.order.bytes.min(MOST_PAYLOAD) as usize],
        };
        prefixed(0, &reply.encode_to_vec())
    }

    /// The reply that the order asks for.
    pub(super) fn message(&mut self) {
        let reply = self.reply();
        self.data(reply);
    }

    /// All replies that the order asks for, in frames of this size.
    pub(super) fn messages(&mut self, frame: usize) {
        let reply = self.reply();
        let has_one = self.order.replies == 0 && self.order.code == 0;
        let replies = self.order.replies.min(MOST_REPLIES);
        let pause = Duration::from_millis(self.order.pause_ms.into());
        for number in 0..replies.max(u32::from(has_one)) {
            if number > 0 {
                self.pause(pause);
            }
            self.data_in_frames(reply.clone(), frame, false);
        }
    }

    pub(super) fn data(&mut self, bytes: impl Into<Bytes>) {
        self.data_in_frames(bytes, LONGEST_FRAME, false);
    }

    /// Data with which the stream ends.
    pub(super) fn last_data(&mut self, bytes: impl Into<Bytes>) {
        self.data_in_frames(bytes, LONGEST_FRAME, true);
    }

    fn data_in_frames(&mut self, bytes: impl Into<Bytes>, frame: usize, ends: bool) {
        self.steps.push_back(Step::Data {
            bytes: bytes.into(),
            frame,
            ends,
        });
    }

    /// DATA of a few bytes, whatever the windows of the client.
    pub(super) fn raw_data(&mut self, flags: u8, bytes: impl Into<Bytes>) {
        self.frame(DATA, flags, bytes);
    }

    pub(super) fn frame(&mut self, kind: u8, flags: u8, payload: impl Into<Bytes>) {
        self.frame_on(self.stream, kind, flags, payload);
    }

    pub(super) fn frame_on(&mut self, stream: u32, kind: u8, flags: u8, payload: impl Into<Bytes>) {
        self.steps.push_back(Step::Frame {
            kind,
            flags,
            stream,
            payload: payload.into(),
        });
    }

    pub(super) fn bytes(&mut self, bytes: impl Into<Bytes>) {
        self.steps.push_back(Step::Bytes(bytes.into()));
    }

    pub(super) fn reset(&mut self, code: u32) {
        self.frame(RST_STREAM, 0, code.to_be_bytes().to_vec());
    }

    /// A reset with any error, but not the one that refuses.
    pub(super) fn any_reset(&mut self) {
        let code = self.any_error();
        self.reset(code);
    }

    /// Any code of an error, known or not, but not the one that refuses.
    pub(super) fn any_error(&mut self) -> u32 {
        match self.random.u32(..16) {
            code @ (..7 | 8..14) => code,
            7 => 99,
            _ => u32::MAX,
        }
    }

    pub(super) fn go_away(&mut self, last: Last, code: u32) {
        self.steps.push_back(Step::GoAway(last, code, Bytes::new()));
    }

    pub(super) fn close(&mut self) {
        self.steps.push_back(Step::Close);
    }

    pub(super) fn mute(&mut self) {
        self.steps.push_back(Step::Mute);
    }

    /// Some bytes of any value.
    pub(super) fn noise(&mut self, length: usize) -> Bytes {
        (0..length).map(|_| self.random.u8(..)).collect()
    }

    /// One of these.
    pub(super) fn choose<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.random.usize(..among.len())]
    }
}

/// A message after its prefix.
pub(super) fn prefixed(flag: u8, message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(flag);
    bytes.put_u32(u32::try_from(message.len()).expect("it is short"));
    bytes.put_slice(message);
    bytes.freeze()
}
