//! The target of a channel is a list of hosts and ports, or an error.

use common::client::Target;

pub fn run(text: &str) {
    if text.parse::<Target>().is_ok() {
        assert!(!text.contains(['@', '#', '?']));
        assert!(!text.trim().is_empty());
    }
}
