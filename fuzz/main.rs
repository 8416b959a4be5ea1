//! Hands what libFuzzer makes up to the target this binary is named after.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_targets::run(env!("CARGO_BIN_NAME"), data));
