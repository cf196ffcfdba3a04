//! [`ObjectId`]: the id of `MongoDB` as a protobuf message.

use bson::oid;
use prost::{
    DecodeError, Message,
    bytes::{Buf, BufMut},
    encoding::{DecodeContext, WireType, bytes, skip_field},
};

/// The tag of `value`.
const VALUE: u32 = 1;

/// The message `notes.ObjectId`. It is `None` if its value is missing or does not have 12 bytes:
/// tonic would turn an error of decoding into `INTERNAL`, so the handler refuses the id instead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ObjectId(pub Option<oid::ObjectId>);

impl ObjectId {
    fn value(&self) -> Vec<u8> {
        self.0.map_or_else(Vec::new, |id| id.bytes().to_vec())
    }
}

impl Message for ObjectId {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        if self.0.is_some() {
            bytes::encode(VALUE, &self.value(), buffer);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag != VALUE {
            return skip_field(wire_type, tag, buffer, context);
        }
        let mut value = Vec::new();
        bytes::merge(wire_type, &mut value, buffer, context)?;
        self.0 = <[u8; 12]>::try_from(value)
            .ok()
            .map(oid::ObjectId::from_bytes);
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.0
            .map_or(0, |_| bytes::encoded_len(VALUE, &self.value()))
    }

    fn clear(&mut self) {
        self.0 = None;
    }
}
