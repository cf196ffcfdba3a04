//! A request id is 1 to 128 visible ASCII characters, kept unchanged, or an error.

use common::RequestId;

pub fn run(text: &str) {
    let is_valid =
        (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    match text.parse::<RequestId>() {
        Ok(id) => assert!(is_valid && id.as_str() == text),
        Err(_) => assert!(!is_valid),
    }
}
