//! Summaries as they stand on disk: nothing that they are panics, what comes of them can be shown,
//! and those of messages come back as they were.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::proto::imap::structure::{Extension, write_body};
use ringpost::proto::imap::summary::{Summary, write_summary};
use ringpost::proto::mime::haystack::BodyEncoding;
use ringpost::proto::mime::scan::scan;
use ringpost::proto::mime::stored::stored_fields;
use ringpost::proto::mime::structure::{PartText, Structure};

fn show(octets: &[u8]) {
    stored_fields(octets).for_each(drop);
    let Some(structure) = Structure::read(octets) else { return };
    let mut out = Vec::new();
    write_body(&structure, Extension::With, &mut out);
    for index in 0..structure.parts.len() {
        BodyEncoding::of(&structure, index);
    }
    for part in [&[1][..], &[2, 1], &[1, 1, 1]] {
        structure.section(part, PartText::Whole);
    }
    let mut again = Vec::new();
    structure.write(&mut again);
    assert_eq!(Structure::read(&again), Some(structure));
}

fuzz_target!(|input: &[u8]| {
    show(input);
    if let Some(summary) = Summary::read(input) {
        show(summary.structure);
    }

    let structure = scan(input);
    let mut out = Vec::new();
    write_summary(structure.clone(), input, 0, &mut out);
    let summary = Summary::read(&out).expect("a summary");
    assert_eq!(summary.message_bytes as usize, input.len());
    assert_eq!(Structure::read(summary.structure), Some(structure.clone()));
    let fields = stored_fields(summary.structure).map(|field| (field.name, field.whole));
    assert!(fields.eq(structure.whole_fields(0)));
});
