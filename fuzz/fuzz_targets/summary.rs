//! Summaries as they stand on disk: nothing that they are panics, what comes of them can be shown,
//! and those of messages come back as they were, also from the records of a block.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::mailbox::codec::BodyId;
use ringpost::mailbox::summary_blocks::{BLOCK_ENTRY_BYTES, Batch, Block, Blocks, records};
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

/// Sound records of damaged blocks are where they say, and what is written is read again.
fn read_blocks(input: &[u8]) {
    for record in records(input, SEED) {
        assert!(input.get(record.whole).is_some_and(|it| it.ends_with(&input[record.summary])));
    }
    for entry in input.as_chunks::<BLOCK_ENTRY_BYTES>().0 {
        if let Some(block) = Block::read(entry, SEED) {
            let mut again = Vec::new();
            block.write(SEED, &mut again);
            assert_eq!(again, entry);
        }
    }
    let (uids, rest) = input.split_at(input.len().min(16));
    let summaries = rest.chunks(rest.len() / uids.len().max(1) + 1);
    let expected: Vec<(u32, &[u8])> = uids.iter().map(|uid| (*uid).into()).zip(summaries).collect();
    let mut batch = Batch::default();
    expected.iter().for_each(|(uid, summary)| batch.add(*uid, BodyId(1), summary));
    let mut blocks = Blocks::behind(None, 0);
    let octets = batch.seal(SEED, &mut blocks);
    let mut found = Vec::new();
    for block in blocks.list() {
        let of_block = &octets[block.offset as usize..block.end() as usize];
        let records = records(of_block, SEED).map(|it| (it.uid, &of_block[it.summary]));
        found.extend(records);
    }
    found.sort_unstable();
    let mut expected = expected;
    expected.sort_unstable();
    assert_eq!(found, expected);
}

fuzz_target!(|input: &[u8]| {
    show(input);
    read_blocks(input);
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

const SEED: u32 = 7;
