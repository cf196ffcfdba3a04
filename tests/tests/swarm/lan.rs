//! [`Lan`]: a bridge with a network namespace for each node. This host is on it, too.
//!
//! The bridge stands in a namespace of its own, so that no firewall rule of this host applies to it.

use std::{net::Ipv4Addr, process::Command};

const BRIDGE: &str = "mesh-lan";
const HOST: &str = "mesh-host";

/// Runs a program, which must succeed, and returns what it writes to stdout.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Runs `ip` with the words of a line.
fn ip(line: &str) {
    run("ip", &line.split(' ').collect::<Vec<_>>());
}

/// The network of the nodes. It goes with this value.
pub(crate) struct Lan {
    nodes: usize,
}

impl Lan {
    /// A network for this many nodes, numbered from 1.
    pub(crate) fn new(nodes: usize) -> Self {
        let lan = Self { nodes };
        lan.remove();
        ip(&format!("netns add {BRIDGE}"));
        ip(&format!("-n {BRIDGE} link add lan type bridge"));
        ip(&format!("-n {BRIDGE} link set lan up"));
        ip(&format!(
            "link add {HOST} type veth peer name host netns {BRIDGE}"
        ));
        ip(&format!("-n {BRIDGE} link set host master lan up"));
        ip(&format!("addr add {}/24 dev {HOST}", Self::address(254)));
        ip(&format!("link set {HOST} up"));
        for number in 1..=nodes {
            let (name, address) = (Self::namespace(number), Self::address(number));
            ip(&format!("netns add {name}"));
            ip(&format!(
                "-n {BRIDGE} link add {name} type veth peer name eth0 netns {name}"
            ));
            ip(&format!("-n {BRIDGE} link set {name} master lan up"));
            ip(&format!("-n {name} addr add {address}/24 dev eth0"));
            ip(&format!("-n {name} link set lo up"));
            ip(&format!("-n {name} link set eth0 up"));
            ip(&format!(
                "-n {name} route add default via {}",
                Self::address(254)
            ));
        }
        lan
    }

    pub(crate) fn namespace(node: usize) -> String {
        format!("mesh-node{node}")
    }

    pub(crate) fn address(node: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, u8::try_from(node).expect("a few nodes"))
    }

    /// Cuts the link between the nodes, or mends it. This host reaches them all the while.
    pub(crate) fn cut(&self, is_cut: bool) {
        let isolated = if is_cut { "on" } else { "off" };
        for number in 1..=self.nodes {
            let port = Self::namespace(number);
            run(
                "bridge",
                &[
                    "-n", BRIDGE, "link", "set", "dev", &port, "isolated", isolated,
                ],
            );
        }
    }

    /// Removes what is there, also what an earlier run may have left.
    fn remove(&self) {
        let namespaces = (1..=self.nodes).map(Self::namespace).chain([BRIDGE.into()]);
        for namespace in namespaces {
            let _ = Command::new("ip")
                .args(["netns", "del", &namespace])
                .output();
        }
        let _ = Command::new("ip").args(["link", "del", HOST]).output();
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        self.remove();
    }
}
