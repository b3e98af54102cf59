#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| xlb_tests::fuzz::tables(bytes));
