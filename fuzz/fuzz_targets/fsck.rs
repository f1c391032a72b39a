//! Segments of any octets: the independent reader comes to an end, whatever they say, be it of a
//! queue or of mailboxes.
#![no_main]

use std::io;

use libfuzzer_sys::fuzz_target;
use ringpost::fsck::{self, Slots};

struct Memory(Vec<Vec<u8>>);

impl Slots for Memory {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn bytes(&self, slot: usize) -> u64 {
        self.0[slot].len() as u64
    }

    fn read(&mut self, slot: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        let octets = self.0[slot].get(start..start + buffer.len());
        buffer.copy_from_slice(octets.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

const STORE: [u8; 16] = [7; 16];
const BLOCK: usize = 4096;

/// Puts the checksum that belongs there behind the octets of a header, a frame or a record, so that
/// what stands behind the checksum is reached.
fn with_checksums(input: &[u8]) -> Vec<u8> {
    let mut slot = vec![0; 6 * BLOCK];
    let (header, frame) = input.split_at(input.len() / 4);
    for copy in 0..2 {
        let block = &mut slot[copy * BLOCK..(copy + 1) * BLOCK];
        block[..8].copy_from_slice(b"RINPSEG1");
        block[8] = 2;
        block[16..32].copy_from_slice(&STORE);
        // Epoch 1, the first of its run, nothing cut off.
        (block[32], block[40], block[56], block[64]) = (1, 1, 1, 1);
        let end = (80 + header.len()).min(160);
        block[80..end].copy_from_slice(&header[..end - 80]);
        block[80..88].fill(0);
        let checksum = crc32c::crc32c(&block[..BLOCK - 4]);
        block[BLOCK - 4..].copy_from_slice(&checksum.to_le_bytes());
    }
    let records = &frame[..frame.len().min(3 * BLOCK - 64)];
    let mut body = records.to_vec();
    if let Some((kind, payload)) = records.split_first() {
        body = vec![*kind, 0, 24, 0];
        body.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        body.extend_from_slice(&1_u64.to_le_bytes());
        body.extend_from_slice(&[0; 8]);
        body.extend_from_slice(payload);
        let checksum = crc32c::crc32c_append(crc32c::crc32c_append(1, &body[..20]), payload);
        body[20..24].copy_from_slice(&checksum.to_le_bytes());
    }
    let mut head = b"RFRM".to_vec();
    head.extend_from_slice(&(64 + body.len() as u32).to_le_bytes());
    for number in [1_u64, 1, 0, 1] {
        head.extend_from_slice(&number.to_le_bytes());
    }
    head.extend_from_slice(&1_u32.to_le_bytes());
    head.extend_from_slice(&2_u32.to_le_bytes());
    head.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    head.extend_from_slice(&[0; 8]);
    let seed = crc32c::crc32c_append(crc32c::crc32c(&STORE), &1_u64.to_le_bytes());
    head.extend_from_slice(&crc32c::crc32c_append(seed, &head).to_le_bytes());
    slot[2 * BLOCK..2 * BLOCK + 64].copy_from_slice(&head);
    slot[2 * BLOCK + 64..2 * BLOCK + 64 + body.len()].copy_from_slice(&body);
    slot
}

fuzz_target!(|input: &[u8]| {
    let mut memory = Memory(vec![with_checksums(input), input.to_vec()]);
    memory.0[1].resize(3 * BLOCK, 0);
    let report = fsck::check(&STORE, 0, &mut memory).expect("memory can be read");
    assert!(report.frames >= 1 || !report.problems.is_empty() || input.is_empty());
    let of_mail = fsck::check_mail(&STORE, 0, &mut memory).expect("memory can be read");
    assert_eq!(of_mail.frames, report.frames);
    // Header and frame are our own then: the frame has to be reached.
    assert!(report.frames >= 1 || !(1..4).contains(&input.len()));
});
