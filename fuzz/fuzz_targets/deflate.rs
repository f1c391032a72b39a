//! COMPRESS=DEFLATE: whatever comes, and however it is cut, it means the same or is refused, within
//! bounds; and what we send means what was said.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::access::imap::deflate::{Inflate, Unusable, deflate};

/// What the pieces of a stream mean, as far as they do.
fn plain(input: &[u8], piece_bytes: usize) -> (Vec<u8>, Result<(), Unusable>) {
    let (mut inflate, mut out) = (Inflate::default(), Vec::new());
    for mut piece in input.chunks(piece_bytes) {
        let mut idle_rounds = 0;
        loop {
            let before = out.len();
            let taken = match inflate.inflate(piece, &mut out) {
                Ok(taken) => taken,
                Err(error) => return (out, Err(error)),
            };
            let made = out.len() - before;
            assert!(made <= WINDOW_BYTES);
            piece = &piece[taken..];
            if piece.is_empty() && made == 0 {
                break;
            }
            idle_rounds = if taken + made == 0 { idle_rounds + 1 } else { 0 };
            assert!(idle_rounds < 3, "it goes on for ever");
        }
    }
    (out, Ok(()))
}

fuzz_target!(|input: &[u8]| {
    let (whole, end) = plain(input, input.len().max(1));
    for piece_bytes in [1, 7] {
        let (cut, cut_end) = plain(input, piece_bytes);
        assert_eq!(cut_end, end);
        assert!(end.is_err() || cut == whole);
    }
    let (first, second) = input.split_at(input.len() / 3);
    let mut sent = Vec::new();
    deflate(&[first, second], &mut sent);
    deflate(&[input], &mut sent);
    assert_eq!(plain(&sent, 100), ([input, input].concat(), Ok(())));
});

/// As far as the format refers back.
const WINDOW_BYTES: usize = 32 * 1024;
