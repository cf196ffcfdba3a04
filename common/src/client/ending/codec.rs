//! [`Codec`]: the codec of generated clients, which reports what it refuses.
//!
//! Whether a message can be decoded is known only above the stack, where the generated client reads
//! the response. So the codec tells the attempt. A client with another codec works as well: its
//! replicas are not judged by their messages.

use std::{
    cell::RefCell,
    marker::PhantomData,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::Buf;
use prost::Message;
use tokio::task;
use tonic::{
    Status,
    codec::{self, BufferSettings, DecodeBuf},
    metadata::MetadataValue,
};
use tonic_prost::{ProstDecoder, ProstEncoder};

use crate::{client::method::Check, problem::MALFORMED};

/// What the codec says of one response.
#[derive(Debug, Default)]
pub(crate) struct RefusedMessage {
    /// Whether the codec reads the response at all.
    is_read: AtomicBool,
    check: OnceLock<Check>,
}

impl RefusedMessage {
    /// Lets the codec that reads the response have this. A generated client makes its decoder in the
    /// same poll in which it gets the response: tonic's `Grpc::streaming`.
    pub(crate) fn offer(self: &Arc<Self>) {
        OFFERED.set(Some((task::try_id(), self.clone())));
    }

    /// The check that a message did not pass, if one was refused.
    pub(crate) fn check(&self) -> Option<Check> {
        self.check.get().copied()
    }

    /// Whether the codec reads the response, and not another one.
    pub(crate) fn is_read(&self) -> bool {
        self.is_read.load(Relaxed)
    }
}

thread_local! {
    /// The response that was given to its caller last, and the task of the caller.
    static OFFERED: RefCell<Option<(Option<task::Id>, Arc<RefusedMessage>)>> = const { RefCell::new(None) };
}

/// Takes what was offered in this task. Another codec may have left it.
fn take_offered() -> Option<Arc<RefusedMessage>> {
    let (task, refusal) = OFFERED.take()?;
    if task != task::try_id() {
        return None;
    }
    refusal.is_read.store(true, Relaxed);
    Some(refusal)
}

/// The codec of protobuf for generated clients and servers: that of `tonic-prost`, but a replica
/// whose messages can't be decoded is found, and a request that can't be decoded is
/// `INVALID_ARGUMENT`, the fault of its caller. Name it where the code is generated:
///
/// ```ignore
/// tonic_prost_build::configure().codec_path("common::client::Codec")
/// ```
///
/// A message that can't be decoded is the last of its stream. Who reads on after the error comes to an
/// end, where the codec of `tonic-prost` may return the error for ever, without a pause:
///
/// - A caller gets one more error, and then the end.
/// - A handler gets nothing of what follows, and the end when its client ends the request. That is so
///   in the stack of [`server`](crate::server), which keeps tonic from an endless error at the end of
///   a stream.
///
/// Where messages may be compressed, that is not all: tonic decompresses them before the codec sees
/// them, and what it can't decompress is an error for ever. There, end the loop at the first error.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Decoder<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstEncoder::new(buffers())
    }

    fn decoder(&mut self) -> Decoder<U> {
        Decoder {
            inner: ProstDecoder::new(buffers()),
            refusal: take_offered(),
            has_refused: false,
        }
    }
}

/// The buffer that tonic allocates for each request and each response, in bytes. A longer message grows
/// it. With tonic's 8 KiB, a unary call takes 32 KiB on both sides, nearly all of which is never
/// written; and mimalloc serves up to 1 KiB from its fast path.
const BUFFER: usize = 1_024;

/// The bytes of a stream's messages that tonic joins into one frame: its own default.
const YIELD_THRESHOLD: usize = 32 * 1_024;

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER, YIELD_THRESHOLD)
}

/// The decoder of [`Codec`].
#[derive(Debug)]
pub struct Decoder<U> {
    inner: ProstDecoder<U>,
    /// `None` in a server.
    refusal: Option<Arc<RefusedMessage>>,
    /// Whether a message was refused. None is decoded after it.
    has_refused: bool,
}

impl<U: Message + Default> Decoder<U> {
    fn decode_message(&mut self, data: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let message = data.chunk();
        if message.len() < data.remaining() {
            return codec::Decoder::decode(&mut self.inner, data);
        }
        // A slice is read faster than tonic's buffer, which moves its window at each byte.
        let decoded = U::decode(message);
        data.advance(data.remaining());
        decoded
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

impl<U: Message + Default> codec::Decoder for Decoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, data: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        if self.has_refused {
            // tonic takes what follows for the rest of the same message. Without progress, the caller
            // that goes on after the error would get it for ever, and never wait: `Streaming::poll_next`.
            data.advance(data.remaining());
            return Ok(None);
        }
        let mut decoded = self.decode_message(data);
        self.has_refused = decoded.is_err();
        match (&mut decoded, &self.refusal) {
            (Ok(_), _) => {}
            (Err(_), Some(refusal)) => {
                let _ = refusal.check.set(|data| U::decode(data).is_ok());
            }
            // The inbound stack corrects the code: here, the message may be that of any server.
            (Err(status), None) => {
                let mark = MetadataValue::from_static("");
                status.metadata_mut().insert(MALFORMED, mark);
            }
        }
        decoded
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.inner.buffer_settings()
    }
}
