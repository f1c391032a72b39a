//! TXT records that ask for TLS reports: whatever is read of them can be shown and reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::limits::TLS_REPORT_RECEIVERS_MAX;
use ringpost::proto::tlsrpt::receivers;

fuzz_target!(|data: &[u8]| {
    let texts: Vec<&[u8]> = data.split(|octet| *octet == 0).collect();
    let found = receivers(texts);
    assert!(found.len() <= TLS_REPORT_RECEIVERS_MAX);
    for receiver in found {
        let shown = receiver.to_string();
        assert!(!shown.contains(['\r', '\n']));
    }
});
