//! See `ringwal_fuzz::batch`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringwal_fuzz::batch::run(data));
