//! What SEARCH, SORT and THREAD make of messages: cut anywhere, a text has the same words in it; a
//! text has what is in its middle; threads hold each message once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::proto::imap::base_subject::base_subject;
use ringpost::proto::imap::threading::{Message, message_ids, ordered_subject, references};
use ringpost::proto::mime::encoded_word::decode_field;
use ringpost::proto::mime::haystack::{BodyEncoding, Haystack, Needles};
use ringpost::proto::mime::scan::scan;

fuzz_target!(|input: &[u8]| {
    let [cut, length, content @ ..] = input else { return };
    let structure = scan(content);
    let body = &content[structure.parts[0].body_offset as usize..];
    let start = usize::from(*cut) % (body.len() + 1);
    let end = body.len().min(start + usize::from(*length));
    let needle = body[start..end].to_vec();
    let is_text = std::str::from_utf8(body).is_ok() && std::str::from_utf8(&needle).is_ok();
    let needles = Needles::new(&[needle, b"a needle".to_vec()]);
    let mut haystack = Haystack::new(&needles);
    let mut found = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut encoding = BodyEncoding::of(&structure, 0)?;
        haystack.begin();
        pieces.for_each(|piece| haystack.look_in_body(&mut encoding, piece));
        haystack.end_body(encoding);
        Some(haystack.found().to_vec())
    };
    let whole = found(&mut [body].into_iter());
    assert_eq!(found(&mut body.chunks(1)), whole);
    let is_plain = !content[..content.len() - body.len()].contains(&b':');
    if let Some(whole) = whole.filter(|_| is_text && is_plain) {
        assert!(whole[0], "it is in there");
    }
    haystack.look_in_header(content, &[true, true]);

    let mut decoded = Vec::new();
    decode_field(content, &mut decoded);
    assert!(std::str::from_utf8(&decoded).is_ok());
    base_subject(content);

    let lines = content.split(|octet| *octet == b'\n').take(64).enumerate();
    let messages: Vec<Message> = lines
        .map(|(index, line)| {
            let mut ids = message_ids(line);
            Message {
                number: index as u32 + 1,
                sent_s: i64::from(line.first().copied().unwrap_or(0)),
                subject: line.get(1..2).unwrap_or_default().into(),
                is_reply: line.get(2) == Some(&b'r'),
                id: (!ids.is_empty()).then(|| ids.remove(0)),
                references: ids,
            }
        })
        .collect();
    for thread in [ordered_subject, references] {
        let mut out = Vec::new();
        thread(&messages, &mut out);
        let text = std::str::from_utf8(&out).expect("ASCII");
        let words = text.split(['(', ')', ' ']).filter(|word| !word.is_empty());
        let mut numbers: Vec<u32> = words.map(|word| word.parse().expect("a number")).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(1..=messages.len() as u32), "{text}");
    }
});
