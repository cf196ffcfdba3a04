//! The server's part.

pub mod capacity;
