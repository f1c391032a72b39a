//! What makes a report of 7 bits reads whatever stands on disk.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::proto::dsn::seven_bit;

fuzz_target!(|input: &[u8]| {
    if let Some(report) = seven_bit(input) {
        assert!(report.is_ascii());
    }
});
