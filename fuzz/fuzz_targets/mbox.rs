//! Files of letters: any file is letters or none, and as many as are written down are read again.
#![no_main]

use std::io::Cursor;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use ringpost::admin::mbox::{letters, to_text};

fuzz_target!(|input: &[u8]| {
    let Ok(found) = letters(Cursor::new(input.to_vec()), Path::new("mbox")) else { return };
    let found: Vec<_> = found.map(|letter| letter.expect("read from memory")).collect();
    assert!(found.iter().map(|letter| letter.uid).eq(1..=found.len() as u32));
    let written: Vec<u8> = found.iter().flat_map(to_text).collect();
    let again = letters(Cursor::new(written), Path::new("mbox")).expect("it begins as it should");
    let again: Vec<_> = again.map(|letter| letter.expect("read from memory")).collect();
    assert_eq!(again.len(), found.len());
    for (again, found) in again.iter().zip(&found) {
        // The last second that the form has is that of 2105.
        assert!(again.date_s == found.date_s || found.date_s > 4_260_000_000);
    }
});
