//! See `ringwal_fuzz::directory`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringwal_fuzz::directory::run(data));
