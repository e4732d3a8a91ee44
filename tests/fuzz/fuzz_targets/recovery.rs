//! See `ringwal_fuzz::recovery`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringwal_fuzz::recovery::run(data));
