//! The end of a connection.

use std::{future::poll_fn, pin::pin};

use fastrand::Rng;
use tokio::{
    io::AsyncReadExt,
    time::{Instant, sleep},
};

use super::{
    super::{connection::Connection, stream::Stream},
    *,
};

/// A fake that runs in a circle stops simulated time.
#[tokio::test(start_paused = true)]
async fn a_fake_that_closes_waits_for_its_client() {
    const WAITING: [u8; 100] = [7; 100];
    let (mut ours, theirs) = duplex(16);
    let good = Character::always(Manner::Good);
    let mut fake = Connection::new(0, good, Rng::with_seed(7), Trace::default());
    fake.waiting.extend_from_slice(&WAITING);
    fake.is_closing = true;
    let mut paused = Stream::new(0);
    paused.due = Some(Instant::now());
    fake.streams.insert(1, paused);

    let (mut run, mut polls) = (pin!(fake.run(theirs)), 0);
    let run = poll_fn(|cx| {
        polls += 1;
        assert!(polls < 100, "it runs in a circle");
        run.as_mut().poll(cx)
    });
    let client = async {
        sleep(Duration::from_secs(1)).await;
        let mut read = Vec::new();
        ours.read_to_end(&mut read).await.expect("it closes");
        read
    };
    let ((), read) = tokio::join!(run, client);
    assert_eq!(read, WAITING);
}
