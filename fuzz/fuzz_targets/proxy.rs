//! What a proxy says: no step asks for octets without end, and none that was taken is looked at
//! otherwise when more is there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::proto::proxy::{Step, next};

fuzz_target!(|data: &[u8]| {
    let mut taken = 0;
    while let Ok(Step::Need(count)) = next(&data[..taken]) {
        assert!(count > 0 && taken + count <= 8192);
        if taken + count > data.len() {
            return;
        }
        taken += count;
    }
});
