//! See `ringwal_fuzz::record`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringwal_fuzz::record::run(data));
