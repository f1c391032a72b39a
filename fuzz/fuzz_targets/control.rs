//! A line of the control socket: what is understood is written the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::control::wire::Request;

fuzz_target!(|line: &[u8]| {
    if let Ok(request) = Request::parse(line) {
        let again = serde_json::to_vec(&request).expect("a request has a JSON form");
        assert_eq!(Request::parse(&again), Ok(request));
    }
});
