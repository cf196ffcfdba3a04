//! The target of a channel is a list of hosts and ports, or an error.

#![no_main]

use common::client::Target;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if text.parse::<Target>().is_ok() {
        assert!(!text.contains(['@', '#', '?']));
        assert!(!text.trim().is_empty());
    }
});
