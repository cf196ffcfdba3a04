//! What the recipes in `src/bin` share: the generated code, and a type of our own in it.

pub mod wire;

/// What tonic generated.
pub mod proto {
    #![allow(missing_docs, clippy::pedantic)]

    /// Of `protos/chat.proto`.
    pub mod chat {
        tonic::include_proto!("chat");
    }

    /// Of `protos/notes.proto`.
    pub mod notes {
        tonic::include_proto!("notes");
    }

    pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("descriptors");
}
