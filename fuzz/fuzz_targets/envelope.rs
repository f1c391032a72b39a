//! Payloads of ENVELOPE and STATE: what reads back is written the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::queue::codec;

fuzz_target!(|payload: &[u8]| {
    if let Ok((envelope, chunks)) = codec::read_envelope(payload) {
        let mut again = Vec::new();
        codec::write_envelope(&envelope, &chunks, &mut again);
        assert_eq!(codec::read_envelope(&again), Ok((envelope, chunks)));
    }
    if let Ok(state) = codec::read_state(payload) {
        let mut again = Vec::new();
        codec::write_state(&state, &mut again);
        let read = codec::read_state(&again).expect("what was written");
        assert_eq!(read.groups.len(), state.groups.len());
    }
});
