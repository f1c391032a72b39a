//! A client's octets to the IMAP reader: cut anywhere, they give the same commands and answers; and
//! the small languages of IMAP, which go both ways.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::proto::imap::command::Command;
use ringpost::proto::imap::reader::{Event, Reader};
use ringpost::proto::imap::set::{NumberSet, SequenceSet};
use ringpost::proto::imap::utf7;

fn run(refuses: bool, pieces: &[&[u8]]) -> (Vec<u8>, Vec<String>) {
    let mut reader = Reader::default();
    let (mut out, mut seen, mut content) = (Vec::new(), Vec::new(), Vec::new());
    for piece in pieces {
        let mut at = 0;
        loop {
            let (taken, event) = reader.next(&piece[at..], &mut out);
            at += taken;
            match event {
                Event::NeedInput => break,
                Event::Content(octets) => content.extend_from_slice(octets),
                Event::Append(_) | Event::AppendNext(_) => {
                    seen.push(format!("{event:?}"));
                    if refuses { reader.refuse_append() } else { reader.accept_message(&mut out) }
                }
                Event::Command { tag, command } => {
                    seen.push(format!("{tag:?} {command:?}"));
                    match command {
                        Command::Idle => reader.expect_done(tag),
                        Command::Authenticate { .. } => reader.expect_response(tag),
                        _ => {}
                    }
                }
                Event::AppendEnd | Event::Response(_) | Event::Done | Event::Refused => {
                    seen.push(format!("{event:?} {content:?}"));
                    content.clear();
                }
            }
        }
        assert_eq!(at, piece.len());
    }
    (out, seen)
}

fuzz_target!(|input: &[u8]| {
    let [settings, cut, input @ ..] = input else { return };
    let refuses = settings & 1 == 1;
    let whole = run(refuses, &[input]);
    let cut = usize::from(*cut) % (input.len() + 1);
    assert_eq!(run(refuses, &[&input[..cut], &input[cut..]]), whole);
    let octets: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(run(refuses, &octets), whole);

    if let Some(name) = utf7::decode(input) {
        let mut text = Vec::new();
        utf7::encode(&name, &mut text);
        assert_eq!(utf7::decode(&text).as_deref(), Some(name.as_str()));
    }
    if let Some(set) = SequenceSet::parse(input) {
        let resolved = set.resolve(u32::from(*settings));
        let mut text = Vec::new();
        resolved.write(&mut text);
        let again = SequenceSet::parse(&text).map(|set| set.resolve(0)).unwrap_or_default();
        assert_eq!(again, resolved);
        assert_eq!(resolved.union(&resolved), resolved);
        assert_eq!(resolved.difference(&resolved), NumberSet::default());
    }
});
