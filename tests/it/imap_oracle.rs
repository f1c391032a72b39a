//! What IMAP shows of messages, read by another library: `imap-codec`. And parts against the octets
//! of the message that they are cut from.

use imap_codec::ResponseCodec;
use imap_codec::decode::Decoder;
use imap_codec::imap_types::body::{BodyStructure, SpecificFields};
use imap_codec::imap_types::core::NString;
use imap_codec::imap_types::fetch::MessageDataItem;
use imap_codec::imap_types::response::{Data, Response};
use ringpost::proto::imap::envelope::write_envelope;
use ringpost::proto::imap::fetch::{Section, SectionText};
use ringpost::proto::imap::structure::{Extension, write_body};
use ringpost::proto::mime::scan::scan;
use ringpost::proto::mime::structure::{PartText, Structure};

/// ENVELOPE, BODY, BODYSTRUCTURE, and every part by its number.
fn response(content: &[u8], structure: &Structure, parts: &[Vec<u32>]) -> Vec<u8> {
    let mut out = b"* 1 FETCH (ENVELOPE ".to_vec();
    write_envelope(structure, 0, &mut out);
    out.extend_from_slice(b" BODY ");
    write_body(structure, Extension::Without, &mut out);
    out.extend_from_slice(b" BODYSTRUCTURE ");
    write_body(structure, Extension::With, &mut out);
    for part in parts {
        let section = Section { part: part.clone(), text: SectionText::Whole };
        out.extend_from_slice(b" BODY[");
        section.write(&mut out);
        let range = section.locate(structure).expect("a part that is shown");
        out.extend_from_slice(format!("] {{{}}}\r\n", range.end - range.start).as_bytes());
        out.extend_from_slice(&content[range.start as usize..range.end as usize]);
    }
    out.extend_from_slice(b")\r\n");
    out
}

fn parse(response: &[u8]) -> Vec<MessageDataItem<'_>> {
    let shown = || String::from_utf8_lossy(response);
    match ResponseCodec::default().decode(response) {
        Ok((b"", Response::Data(Data::Fetch { items, .. }))) => items.into_iter().collect(),
        other => panic!("{other:?}: {}", shown()),
    }
}

/// Numbers of the parts that are no multiparts, with the octets that are shown of each.
fn leaves(shown: &BodyStructure, number: &[u32], found: &mut Vec<(Vec<u32>, u32)>) {
    match shown {
        BodyStructure::Single { body, .. } => {
            // The one part of a message is its part 1.
            let own = if number.is_empty() { vec![1] } else { number.to_vec() };
            if let SpecificFields::Message { body_structure, .. } = &body.specific {
                let is_multipart = matches!(**body_structure, BodyStructure::Multi { .. });
                let inside = if is_multipart { own.clone() } else { [&own[..], &[1]].concat() };
                leaves(body_structure, &inside, found);
            }
            found.push((own, body.basic.size));
        }
        BodyStructure::Multi { bodies, .. } => {
            for (index, body) in bodies.as_ref().iter().enumerate() {
                leaves(body, &[number, &[index as u32 + 1]].concat(), found);
            }
        }
    }
}

/// Whether the other library could read it: it looks into so many levels only.
fn check(content: &[u8]) {
    let structure = scan(content);
    let depth = |mut index: usize| {
        let mut depth = 0;
        while let Some(parent) = structure.parts[index].parent {
            (index, depth) = (parent, depth + 1);
        }
        depth
    };
    if (0..structure.parts.len()).any(|index| depth(index) > THEIR_DEPTH_MAX) {
        return;
    }
    let listing = response(content, &structure, &[]);
    let items = parse(&listing);
    let shown = items.iter().find_map(|item| match item {
        MessageDataItem::BodyStructure(shown) => Some(shown),
        _ => None,
    });
    let mut found = Vec::new();
    leaves(shown.expect("asked for"), &[], &mut found);
    for (number, bytes) in &found {
        let range = structure.section(number, PartText::Whole).expect("a part that is shown");
        assert_eq!(range.end - range.start, u64::from(*bytes), "{number:?}");
        assert_eq!(structure.section(&[&number[..], &[9999]].concat(), PartText::Whole), None);
    }
    // Those that hold nothing lie beside each other.
    let is_leaf = |number: &Vec<u32>| {
        !found.iter().any(|(it, _)| it.starts_with(&[&number[..], &[1]].concat()))
    };
    let inner =
        found.iter().filter(|(number, _)| is_leaf(number)).map(|(_, bytes)| *bytes as usize);
    assert!(inner.sum::<usize>() <= content.len());

    // NUL goes as another octet; this one compares what stands here.
    if content.contains(&0) {
        return;
    }
    let numbers: Vec<Vec<u32>> = found.into_iter().map(|(number, _)| number).collect();
    let whole = response(content, &structure, &numbers);
    let data = parse(&whole).into_iter().filter_map(|item| match item {
        MessageDataItem::BodyExt { data, .. } => Some(data),
        _ => None,
    });
    let mut count = 0;
    for (number, data) in numbers.iter().zip(data) {
        let range = structure.section(number, PartText::Whole).expect("a part that is shown");
        let NString(Some(data)) = data else { panic!("{number:?} is NIL") };
        let expected = &content[range.start as usize..range.end as usize];
        assert!(data.as_ref() == expected, "{number:?}");
        count += 1;
    }
    assert_eq!(count, numbers.len());
}

#[test]
fn another_library_reads_what_is_shown_of_random_messages() {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let lines: [&[u8]; 30] = [
        b"Content-Type: multipart/mixed; boundary=a",
        b"Content-Type: multipart/digest;\r\n boundary=ab; x=\"\\\"\"",
        b"Content-Type: message/rfc822; name*=utf-8''x",
        b"Content-Type: text/plain; charset=\xfc; \"odd\"=y",
        b"Content-Type: application/x",
        b"Content-Type: nothing",
        b"Content-Transfer-Encoding: base64 (x)",
        b"Content-Disposition: attachment; filename=\"a \\\\ b\"",
        b"Content-Disposition: ;",
        b"Content-Language: en, de",
        b"Content-ID: <\xe9@x>",
        b"Content-MD5: x",
        b"Content-Location: http://x/",
        b"Content-Description: =?utf-8?q?=C3=BC?= \"q\"",
        b"From: A \"quoted \\\" b\" <a@b>, c@d",
        b"To: group: a@b, \"x y\"@z;, <@r,@s:t@u>",
        b"Cc: \xff <>, @, ,;:<(((",
        b"Sender:",
        b"Reply-To: only words",
        b"Bcc: \"open",
        b"Subject: a\r\n b\tc \"d\" \\",
        b"Subject: \xc3\xbc\x01\x7f",
        b"Date: Thu, 26 Nov 2026 10:00:00 +0000",
        b"Message-ID: <a@b>",
        b"",
        b"",
        b"--a",
        b"--ab",
        b"--a--",
        b"text of a part",
    ];
    for _ in 0..3000 {
        let mut content = Vec::new();
        for _ in 0..next(24) {
            content.extend_from_slice(lines[next(lines.len())]);
            content.extend_from_slice([&b"\r\n"[..], b"\n"][next(8) / 7]);
        }
        check(&content);
    }
}

#[test]
fn another_library_reads_what_is_shown_of_published_messages() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/testdata/mime-mail-parser");
    let mut count = 0;
    for group in ["legacy", "malformed", "rfc"] {
        let Ok(entries) = std::fs::read_dir(format!("{directory}/{group}")) else { continue };
        for entry in entries {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "eml") {
                check(&std::fs::read(&path).expect("a message"));
                count += 1;
            }
        }
    }
    println!("mime-mail-parser: {count} messages");
}

/// How deep it reads BODYSTRUCTURE.
const THEIR_DEPTH_MAX: usize = 6;
