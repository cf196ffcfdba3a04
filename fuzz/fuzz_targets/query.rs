#![no_main]

libfuzzer_sys::fuzz_target!(|query: &str| fuzz::query::run(query));
