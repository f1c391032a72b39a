//! Content over the wire against a decoder that goes by the letter.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::proto::smtp::data::{BareNewline, ContentDecoder, Framing, Step};

fn reference(input: &[u8], framing: Framing) -> (Vec<u8>, usize, bool) {
    let mut out = Vec::new();
    let (mut at, mut line_start) = (0, true);
    while at < input.len() {
        let rest = &input[at..];
        if framing == Framing::Dot && line_start && rest[0] == b'.' {
            if rest.starts_with(b".\r\n") {
                return (out, at + 3, true);
            }
            (at, line_start) = (at + 1, false);
        } else if rest.starts_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
            (at, line_start) = (at + 2, true);
        } else if rest[0] == b'\r' || rest[0] == b'\n' {
            out.extend_from_slice(b"\r\n");
            (at, line_start) = (at + 1, false);
        } else {
            out.push(rest[0]);
            (at, line_start) = (at + 1, false);
        }
    }
    (out, at, false)
}

fuzz_target!(|input: &[u8]| {
    let [settings, cut, input @ ..] = input else { return };
    let framing = if settings & 1 == 0 { Framing::Dot } else { Framing::Length };
    let mut decoder = ContentDecoder::new(framing, BareNewline::Normalise);
    let (mut out, mut consumed, mut ended) = (Vec::new(), 0, false);
    let cut = usize::from(*cut) % (input.len() + 1);
    'pieces: for piece in [&input[..cut], &input[cut..]] {
        let mut at = 0;
        loop {
            let (taken, step) = decoder.next(&piece[at..]);
            at += taken;
            consumed += taken;
            match step {
                Step::Piece(content) => out.extend_from_slice(content),
                Step::NeedInput => break,
                Step::End => {
                    ended = true;
                    break 'pieces;
                }
            }
        }
    }
    let expected = reference(input, framing);
    assert_eq!((consumed, ended), (expected.1, expected.2));
    // A CR at the very end is not judged yet.
    if ended || !input.ends_with(b"\r") {
        assert_eq!(out, expected.0);
    }
});
