//! See `ringwal_fuzz::shipping`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringwal_fuzz::shipping::run(data));
