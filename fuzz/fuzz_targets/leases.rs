//! The file of leases: no panic; what is read is written again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::delivery::lease::record::{Clocks, read, write};

fuzz_target!(|input: &str| {
    let clocks =
        Clocks { boot_id: "b".into(), boot_ms: 5_000, unix_ms: 9_000_000, monotonic_ms: 100 };
    // Random octets rarely have a fitting sum.
    let sum = format!("{input}end {:08x}\n", ringpost::delivery::lease::record::checksum(input));
    for text in [input, &sum] {
        if let Ok(records) = read(text, &clocks) {
            assert_eq!(read(&write(&records, &clocks), &clocks), Ok(records));
        }
    }
});
