#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::grpc_timeout::run(bytes));
