//! Models of the wake-ups around a connection.

use std::sync::Arc;

use loom::{future::block_on, thread};

use super::wire::{
    activity::{ConnectionActivity, Room},
    connection::Connection,
    in_flight::InFlight,
};
use crate::check;

fn connection(room: &Arc<Room>) -> Arc<Connection> {
    let activity = Arc::new(ConnectionActivity::new(room.clone()));
    Arc::new(Connection { activity })
}

/// A call that begins while the watch goes to sleep wakes it.
pub fn each_call_is_watched() {
    check(|| {
        let connection = connection(&Arc::default());
        // The watch was awake for this one.
        drop(InFlight::begin(connection.clone()));
        let activity = connection.activity.clone();
        let watch = thread::spawn(move || {
            while activity.in_flight() == 0 {
                block_on(activity.call_begun());
            }
        });
        let _call = InFlight::begin(connection);
        watch.join().expect("it ends");
    });
}

/// Waits for the only stream, as `Connections` does.
fn wait_for_stream(connection: &Arc<Connection>) -> InFlight {
    let activity = &connection.activity;
    let is_free = || activity.in_flight() == 0;
    let waiting = activity.room().wait().expect("few wait");
    let mut is_turn = waiting.is_first();
    activity.meet_ends();
    loop {
        if is_turn && is_free() {
            let taken = InFlight::begin(connection.clone());
            drop(waiting);
            if is_free() {
                activity.room().wake_one();
            }
            return taken;
        }
        block_on(waiting.woken());
        is_turn = true;
    }
}

/// A call ends while two others begin to wait for its stream: one gets it, and then the other.
pub fn a_free_stream_is_given_to_a_call_that_waits() {
    check(|| {
        let connection = connection(&Arc::default());
        let call = InFlight::begin(connection.clone());
        let other = {
            let connection = connection.clone();
            thread::spawn(move || drop(wait_for_stream(&connection)))
        };
        drop(call);
        drop(wait_for_stream(&connection));
        other.join().expect("it ends");
    });
}

/// A call that waits wakes the task which opens further connections, and that task wakes the call.
pub fn a_call_that_waits_is_noticed() {
    check(|| {
        let room = Arc::<Room>::default();
        let grows = {
            let room = room.clone();
            thread::spawn(move || {
                block_on(room.wanted());
                room.wake_one();
            })
        };
        let waiting = room.wait().expect("few wait");
        block_on(waiting.woken());
        drop(waiting);
        grows.join().expect("it ends");
    });
}

/// A connection that goes silent just when a call begins to wait for that is noticed.
pub fn silence_is_noticed() {
    check(|| {
        let room = Arc::<Room>::default();
        let call = {
            let room = room.clone();
            thread::spawn(move || block_on(room.silent()))
        };
        room.count_silent();
        call.join().expect("it ends");
    });
}
