//! Mailboxes: parts make the whole, and a parsed one parses again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::mail::{AddressRef, Utf8};

fuzz_target!(|text: &[u8]| {
    for utf8 in [Utf8::Allowed, Utf8::Refused] {
        if let Ok(address) = AddressRef::parse(text, utf8) {
            assert_eq!(address.as_str().as_bytes(), text);
            if address.domain().is_empty() {
                assert!(address.as_str().eq_ignore_ascii_case("postmaster"));
            } else {
                let parts = format!("{}@{}", address.local_part(), address.domain());
                assert_eq!(parts, address.as_str());
            }
        }
    }
});
