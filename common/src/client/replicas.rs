//! The replicas behind a name: looked up again and again, each kept connected by a task of its
//! own, so that no call waits for a connection and none goes to a replica that is down.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};

use http::uri::Authority;
use tokio::{net::lookup_host, select, sync::Notify, task::AbortHandle, time::sleep};
use tracing::warn;

use super::{Target, balance::Balance, connection::Connection, replica};

/// When a name is looked up again: this long after the pause, or as soon as a connection breaks.
const LOOKUP_INTERVAL: Duration = Duration::from_millis(4_500);

/// The pause between two look-ups, however many connections break.
const LOOKUP_PAUSE: Duration = Duration::from_millis(500);

/// Keeps `balance` in step with the replicas of `target`, for as long as it is polled.
pub(super) async fn keep(target: Target, balance: Balance<Connection>) {
    let mut names: Vec<_> = target.authorities().iter().map(Name::new).collect();
    let mut replicas = HashMap::<SocketAddr, AbortOnDrop>::new();
    let broken = Arc::new(Notify::new());
    loop {
        for name in &mut names {
            name.look_up().await;
        }
        let found: HashMap<SocketAddr, Authority> = names.iter().flat_map(Name::found).collect();
        replicas.retain(|address, _| found.contains_key(address));
        for (address, authority) in found {
            replicas.entry(address).or_insert_with(|| {
                let replica = replica::keep(address, authority, balance.clone(), broken.clone());
                AbortOnDrop(tokio::spawn(replica).abort_handle())
            });
        }
        sleep(LOOKUP_PAUSE).await;
        if names.iter().any(|name| name.addresses.is_empty()) {
            continue; // nothing is known of a service that is about to start
        }
        select! {
            () = sleep(LOOKUP_INTERVAL) => {}
            () = broken.notified() => {}
        }
    }
}

/// A name, and what it stood for when it was last looked up with success.
struct Name<'a> {
    authority: &'a Authority,
    addresses: Vec<SocketAddr>,
    failed: bool,
}

impl<'a> Name<'a> {
    fn new(authority: &'a Authority) -> Self {
        Self {
            authority,
            addresses: Vec::new(),
            failed: false,
        }
    }

    /// Looks it up; a failure leaves all as it was.
    async fn look_up(&mut self) {
        match self.addresses().await {
            Ok(addresses) => {
                self.addresses = addresses;
                self.failed = false;
            }
            Err(error) if !self.failed => {
                self.failed = true;
                warn!(
                    action = "look_up",
                    status = "failure",
                    authority = %self.authority,
                    %error,
                    "the name can't be looked up; what is known of it is kept"
                );
            }
            Err(_) => {}
        }
    }

    /// One family: the two addresses of a name such as `localhost` are one replica.
    async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let all: Vec<_> = lookup_host(self.authority.as_str()).await?.collect();
        let (v4, v6): (Vec<_>, Vec<_>) = all.into_iter().partition(SocketAddr::is_ipv4);
        let addresses = if v4.is_empty() { v6 } else { v4 };
        if addresses.is_empty() {
            return Err(io::Error::other("the name has no address"));
        }
        Ok(addresses)
    }

    fn found(&self) -> impl Iterator<Item = (SocketAddr, Authority)> {
        let addresses = self.addresses.iter();
        addresses.map(|address| (*address, self.authority.clone()))
    }
}

/// A task that ends when it is not wanted any more.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
