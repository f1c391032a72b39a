//! What a checkpoint says of messages: nothing panics, and what was read is written the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::queue::items;

fuzz_target!(|payload: &[u8]| {
    if let Some(again) = items::rewrite(payload) {
        assert_eq!(items::rewrite(&again).as_ref(), Some(&again));
    }
});
