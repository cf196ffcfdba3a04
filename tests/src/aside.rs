//! [`serve_aside`]: a server beside a test.

use std::{future::pending, thread};

use common::server::Server;
use tokio::runtime;

/// Serves on a thread of its own, to the end of the process.
pub fn serve_aside(server: Server) {
    thread::spawn(|| {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime
            .expect("a runtime")
            .block_on(server.serve(pending()))
    });
}
