//! Octets from a disk as segment header, frame header and record: what reads back is what was
//! written, nothing panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::journal::format::{
    BLOCK_BYTES, FRAME_HEADER_BYTES, FrameHeader, HeaderRead, Record, RecordRef, SegmentHeader,
    StoreId,
};

fuzz_target!(|input: &[u8]| {
    let store = StoreId([7; 16]);
    let free = SegmentHeader::read(&store, input) == HeaderRead::Free;
    assert!(free || input.len() >= BLOCK_BYTES);
    if let Some(header) = FrameHeader::read(&store, 9, input) {
        let mut again = [0; FRAME_HEADER_BYTES];
        header.write(&store, &mut again);
        assert_eq!(FrameHeader::read(&store, 9, &again), Some(header));
    }
    if let Some((record, taken)) = RecordRef::read(9, input) {
        assert!(taken >= record.payload.len());
    }
    // The same octets as a payload, with one bit flipped somewhere.
    let [at, kind, payload @ ..] = input else { return };
    let pieces = [payload];
    let record = Record { kind: *kind, flags: 0, id: 1, aux: 2, payload: &pieces };
    let mut bytes = vec![0; record.padded_bytes()];
    record.write(9, &mut bytes);
    let (read, taken) = RecordRef::read(9, &bytes).expect("what was written");
    assert_eq!((read.payload, taken), (payload, bytes.len()));
    let bit = usize::from(*at) % ((24 + payload.len()) * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
    assert_eq!(RecordRef::read(9, &bytes), None);
});
