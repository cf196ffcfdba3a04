//! **How an attempt ended**, and what follows for all who want to know.
//!
//! | file | contents |
//! |---|---|
//! | `class` | how an attempt ended, and what follows from that: the one place that judges |
//! | `judgement` | what an attempt says about its replica |
//! | `failure` | an ending with the status that the caller gets |
//! | `reading` | follows a response from its head to its end; removes what tonic must not read of a status |
//! | `pushback` | when a server wants a call again |
//! | `codec` | [`Codec`](codec::Codec): the codec of generated clients, which reports what it refuses |

pub(crate) mod class;
pub(crate) mod codec;
pub(crate) mod failure;
pub(crate) mod judgement;
pub(crate) mod pushback;
pub(crate) mod reading;
