//! Messages whole, in every two pieces, and octet by octet; and other people's messages, where they
//! are at hand.

use super::*;

/// The structure of content, checked to be the same however the content is cut.
fn scan_every_cut(content: &[u8], stride: usize) -> Structure {
    let whole = scan(content);
    check_invariants(&whole, content.len() as u64);
    for cut in (0..=content.len()).step_by(stride) {
        let mut scanner = Scanner::default();
        scanner.feed(&content[..cut]);
        scanner.feed(&content[cut..]);
        assert_eq!(scanner.finish(), whole, "cut at {cut}");
    }
    let mut scanner = Scanner::default();
    content.chunks(1).for_each(|octet| scanner.feed(octet));
    assert_eq!(scanner.finish(), whole, "octet by octet");
    whole
}

fn check_invariants(structure: &Structure, size: u64) {
    assert_eq!(structure.parts[0].end(), size);
    for (index, part) in structure.parts.iter().enumerate() {
        assert_eq!(part.header().end, part.body_offset);
        assert!((index + 1..=structure.parts.len()).contains(&part.subtree_end));
        assert!(part.body_lines <= part.body_bytes);
        if let Some(parent) = part.parent {
            let parent = &structure.parts[parent];
            assert!(parent.kind != PartKind::Leaf);
            assert!(part.header_offset >= parent.body_offset && part.end() <= parent.end());
        }
    }
}

/// `depth kind header+body/lines`, the octets of the body for leaves.
fn dump(content: &[u8], structure: &Structure) -> Vec<String> {
    let depth = |mut index: usize| {
        let mut depth = 0;
        while let Some(parent) = structure.parts[index].parent {
            (index, depth) = (parent, depth + 1);
        }
        depth
    };
    let parts = structure.parts.iter().enumerate();
    parts
        .map(|(index, part)| {
            let size = format!("{}+{}/{}", part.header_bytes, part.body_bytes, part.body_lines);
            let indent = " ".repeat(depth(index));
            match part.kind {
                PartKind::Leaf => {
                    let body = &content[part.body_offset as usize..part.end() as usize];
                    format!("{indent}leaf {size} {:?}", String::from_utf8_lossy(body))
                }
                kind => format!("{indent}{kind:?} {size}"),
            }
        })
        .collect()
}

fn check(content: &[u8], expected: &[&str]) {
    let structure = scan_every_cut(content, 1);
    assert_eq!(dump(content, &structure), expected, "{}", String::from_utf8_lossy(content));
}

#[test]
fn a_message_without_parts() {
    check(b"", &["leaf 0+0/0 \"\""]);
    check(b"A: b\r\n", &["leaf 6+0/0 \"\""]);
    check(b"A: b", &["leaf 4+0/0 \"\""]);
    check(b"A: b\r\n\r\n", &["leaf 8+0/0 \"\""]);
    check(b"\r\nbody", &["leaf 2+4/0 \"body\""]);
    check(b"A: b\n\none\ntwo\n", &["leaf 6+8/2 \"one\\ntwo\\n\""]);
    // White space does not make an empty line.
    check(b"A: b\r\n \r\nc\r\n\r\nd\r\n", &["leaf 14+3/1 \"d\\r\\n\""]);
}

#[test]
fn parts_between_boundaries() {
    let content = b"Content-Type: multipart/mixed; boundary=\"b b\"\r\n\r\n\
        preamble\r\n--b b \r\n\r\none\r\n\r\n--b b\r\nA: b\r\n\r\ntwo\r\n--b b--\r\nepilogue\r\n\
        --b b\r\n";
    check(content, &["Multipart 49+73/12", " leaf 2+5/1 \"one\\r\\n\"", " leaf 8+3/0 \"two\""]);
}

#[test]
fn a_boundary_counts_at_the_start_of_a_line_only() {
    let content = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n\
        --b\r\n\r\nx --b\r\n-\r\n --b\r\n--\r\n-b\r\n\r--b\r\n--b--";
    check(
        content,
        &[
            "Multipart 45+42/8",
            " leaf 2+28/5 \"x --b\\r\\n-\\r\\n --b\\r\\n--\\r\\n-b\\r\\n\\r--b\"",
        ],
    );
}

#[test]
fn an_outer_boundary_ends_inner_parts() {
    let content = b"Content-Type: multipart/mixed; boundary=o\r\n\r\n\
        --o\r\nContent-Type: multipart/mixed; boundary=i\r\n\r\n--i\r\n\r\nin\r\n\
        --o\r\nContent-Type: message/rfc822\r\n\r\nA: b\r\n--o\r\n\r\nout\r\n--o--\r\n";
    check(
        content,
        &[
            "Multipart 45+123/14",
            " Multipart 45+9/2",
            "  leaf 2+2/0 \"in\"",
            " Message 32+4/0",
            "  leaf 4+0/0 \"\"",
            " leaf 2+3/0 \"out\"",
        ],
    );
}

#[test]
fn of_boundaries_that_fit_the_longest_is_meant() {
    let content = b"Content-Type: multipart/mixed; boundary=a\r\n\r\n\
        --a\r\nContent-Type: multipart/mixed; boundary=ab\r\n\r\n--ab\r\n\r\nin\r\n--ab--\r\n\
        --abc\r\n--a\r\n\r\nout";
    check(
        content,
        &["Multipart 45+88/10", " Multipart 46+25/4", "  leaf 2+2/0 \"in\"", " leaf 2+3/0 \"out\""],
    );
}

#[test]
fn a_part_whose_header_section_has_no_end() {
    let content = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n\
        --b\r\n--b\r\nA: b\r\n--b\r\nA: b\r\n\r\n--b";
    check(
        content,
        &[
            "Multipart 45+32/6",
            " leaf 0+0/0 \"\"",
            " leaf 4+0/0 \"\"",
            " leaf 8+0/0 \"\"",
            " leaf 0+0/0 \"\"",
        ],
    );
}

#[test]
fn a_digest_holds_messages() {
    let content = b"Content-Type: multipart/digest; boundary=b\r\n\r\n\
        --b\r\n\r\nSubject: one\r\n\r\n1\r\n--b\r\nContent-Type: text/plain\r\n\r\n2\r\n--b--\r\n";
    check(
        content,
        &["Multipart 46+69/10", " Message 2+17/2", "  leaf 16+1/0 \"1\"", " leaf 28+1/0 \"2\""],
    );
}

#[test]
fn without_a_usable_boundary_a_multipart_is_one_part() {
    check(b"Content-Type: multipart/mixed\r\n\r\n--\r\n", &["leaf 33+4/1 \"--\\r\\n\""]);
    check(b"Content-Type: multipart/mixed; boundary=\"\"\r\n\r\n--", &["leaf 46+2/0 \"--\""]);
    let content = format!("Content-Type: multipart/x; boundary={}\r\n\r\n", "b".repeat(257));
    assert_eq!(scan(content.as_bytes()).parts[0].kind, PartKind::Leaf);
}

#[test]
fn fields_are_kept_folded_by_scope() {
    let content =
        b"Received: x\r\n y\r\nSUBJECT: two\r\n lines\r\nTo: a\r\nTo: b\r\nList-Id: l\r\n\
        Content-Type: message/rfc822\r\n\r\nSubject: inner\r\nList-Id: no\r\n\r\n";
    let structure = scan_every_cut(content, 1);
    assert_eq!(structure.field(0, FieldName::Subject), Some(&b" two\r\n lines"[..]));
    assert_eq!(structure.fields(0, FieldName::To).collect::<Vec<_>>(), [b" a", b" b"]);
    assert_eq!(structure.field(0, FieldName::ListId), Some(&b" l"[..]));
    assert_eq!(structure.field(1, FieldName::Subject), Some(&b" inner"[..]));
    assert_eq!(structure.field(1, FieldName::ListId), None);
    assert_eq!(structure.field(0, FieldName::MessageId), None);
}

#[test]
fn depth_and_number_of_parts_are_bounded() {
    let mut content = Vec::new();
    for depth in 0..200 {
        let line =
            format!("Content-Type: multipart/mixed; boundary=b{depth}x\r\n\r\n--b{depth}x\r\n");
        content.extend_from_slice(line.as_bytes());
    }
    let structure = scan(&content);
    assert_eq!(structure.parts.len(), MIME_DEPTH_MAX);
    assert!(structure.is_truncated);

    let content = "Content-Type: message/rfc822\r\n\r\n".repeat(100);
    let structure = scan(content.as_bytes());
    assert_eq!(structure.parts.len(), MIME_DEPTH_MAX);
    assert!(structure.is_truncated);

    let mut content = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n".to_vec();
    content.extend_from_slice(&b"--b\r\n".repeat(MIME_PARTS_MAX + 10));
    let structure = scan(&content);
    check_invariants(&structure, content.len() as u64);
    assert_eq!(structure.parts.len(), MIME_PARTS_MAX);
    assert!(structure.is_truncated);
}

#[test]
fn what_is_kept_of_fields_is_bounded() {
    let mut scanner = Scanner::default();
    for _ in 0..40 {
        scanner.feed(b"Subject: ");
        for _ in 0..100 {
            scanner.feed(&[b'x'; 4096]);
        }
        scanner.feed(b"\r\n");
    }
    scanner.feed(b"\r\n");
    let structure = scanner.finish();
    assert!(structure.is_truncated);
    assert_eq!(structure.text.len(), MIME_KEPT_BYTES_MAX);
    let first = structure.field(0, FieldName::Subject).expect("kept");
    assert_eq!(first.len(), MIME_FIELD_BYTES_MAX - "Subject:".len());
}

#[test]
fn fields_are_kept_as_they_stand() {
    let structure = scan(b"X: 1\r\nsubject :\r\n a\nTo:b\n\nSubject: no\r\n");
    let whole: Vec<_> = structure.whole_fields(0).collect();
    let expected: [(FieldName, &[u8]); 2] =
        [(FieldName::Subject, b"subject :\r\n a\n"), (FieldName::To, b"To:b\n")];
    assert_eq!(whole, expected);
    assert_eq!(structure.field(0, FieldName::Subject), Some(&b"\r\n a"[..]));
}

#[test]
fn trace_fields_in_front_move_everything() {
    let content = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n\
        --b\r\n\r\none\r\n--b\r\n\r\ntwo\r\n--b--\r\n";
    let prefix = b"Return-Path: <>\r\nReceived: by us\r\n";
    let whole = scan(&[&prefix[..], content].concat());
    assert_eq!(scan(content).behind(prefix.len() as u64), whole);
}

/// Pseudo-random lines of what matters to the scanner.
#[test]
fn every_cut_of_pseudo_random_messages_gives_the_same_structure() {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let lines: [&[u8]; 12] = [
        b"Content-Type: multipart/mixed; boundary=a",
        b"Content-Type: multipart/digest;\r\n boundary=ab",
        b"Content-Type: message/rfc822",
        b"",
        b"",
        b"--a",
        b"--ab",
        b"--a--",
        b"--ab--",
        b"text",
        b"-",
        b"Subject: x",
    ];
    for _ in 0..2000 {
        let mut content = Vec::new();
        for _ in 0..next(16) {
            content.extend_from_slice(lines[next(lines.len())]);
            content.extend_from_slice([&b"\r\n"[..], b"\n", b"\r"][next(8).min(2) % 3]);
        }
        scan_every_cut(&content, 1 + next(5));
    }
}

/// Where parts begin by another library's reading; it is a hint, not a norm.
#[test]
fn published_messages_give_the_parts_that_others_find() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/testdata/mime-mail-parser");
    let (mut message_count, mut agree_count) = (0, 0);
    for group in ["legacy", "malformed", "rfc"] {
        let Ok(entries) = std::fs::read_dir(format!("{directory}/{group}")) else { continue };
        for entry in entries {
            let path = entry.expect("an entry").path();
            if path.extension().is_none_or(|extension| extension != "eml") {
                continue;
            }
            let content = std::fs::read(&path).expect("a message");
            scan_every_cut(&content, 1 + content.len() / 500);
            // Their offsets count a line end as one octet.
            let structure = scan(&with_bare_newlines(&content));
            let text = std::fs::read_to_string(path.with_extension("json")).expect("a reading");
            let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let theirs: Vec<(u64, u64)> = json["parts"]
                .as_array()
                .expect("parts")
                .iter()
                .map(|part| (number(&part["offset_header"]), number(&part["offset_body"])))
                .collect();
            let ours: Vec<(u64, u64)> = top_parts(&structure);
            message_count += 1;
            if ours == theirs {
                agree_count += 1;
            } else {
                println!("{}: {ours:?}, by others {theirs:?}", path.display());
            }
        }
    }
    println!("mime-mail-parser: {message_count} messages, {agree_count} with the same parts");
    assert!(agree_count * 10 >= message_count * 7);
}

fn with_bare_newlines(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in content.split_inclusive(|octet| *octet == b'\n') {
        out.extend_from_slice(without_line_end(line));
        out.extend(line.last().filter(|octet| **octet == b'\n'));
    }
    out
}

fn number(value: &serde_json::Value) -> u64 {
    value.as_u64().expect("a number")
}

/// Header and body offsets of all parts that are not inside a message/rfc822.
fn top_parts(structure: &Structure) -> Vec<(u64, u64)> {
    let mut parts = Vec::new();
    let mut index = 0;
    while let Some(part) = structure.parts.get(index) {
        parts.push((part.header_offset, part.body_offset));
        index = if part.kind == PartKind::Message { part.subtree_end } else { index + 1 };
    }
    parts
}
