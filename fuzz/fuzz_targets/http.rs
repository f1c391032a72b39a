//! Responses of web servers: bounds hold, and how the octets come makes no difference.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::web::{Reader, Response};

const BODY_BYTES_MAX: usize = 1000;

fn read(parts: &[&[u8]]) -> Result<Response, ()> {
    let mut reader = Reader::new(BODY_BYTES_MAX);
    for part in parts {
        if let Some(response) = reader.feed(part).map_err(drop)? {
            return Ok(response);
        }
    }
    reader.end().map_err(drop)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let whole = read(&[bytes]);
    let (first, second) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    assert_eq!(read(&[first, second]), whole);
    if let Ok(response) = whole {
        assert!(response.body.len() <= BODY_BYTES_MAX);
    }
});
