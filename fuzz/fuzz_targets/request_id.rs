#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| fuzz::request_id::run(text));
