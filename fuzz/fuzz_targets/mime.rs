//! Content to the MIME scanner: cut anywhere it has the same structure, its parts lie within each
//! other, and IMAP can show them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::proto::imap::envelope::write_envelope;
use ringpost::proto::imap::structure::{Extension, write_body};
use ringpost::proto::mime::date::parse_date;
use ringpost::proto::mime::field::{FieldName, Fields};
use ringpost::proto::mime::scan::{Scanner, scan};
use ringpost::proto::mime::transfer::Decoder;

fuzz_target!(|input: &[u8]| {
    let [cut, content @ ..] = input else { return };
    let structure = scan(content);
    let cut = usize::from(*cut) % (content.len() + 1);
    let pieces = [content[..cut].chunks(usize::MAX), content[cut..].chunks(1)];
    let mut scanner = Scanner::default();
    pieces.into_iter().flatten().for_each(|piece| scanner.feed(piece));
    assert_eq!(scanner.finish(), structure);

    assert_eq!(structure.parts[0].end(), content.len() as u64);
    for part in &structure.parts {
        assert_eq!(part.header().end, part.body_offset);
        assert!(part.body_lines <= part.body_bytes);
        if let Some(parent) = part.parent {
            let parent = &structure.parts[parent];
            assert!(part.header_offset >= parent.body_offset && part.end() <= parent.end());
        }
    }
    let header = &content[..structure.parts[0].header_bytes as usize];
    let fields_bytes: usize = Fields::new(header).map(|field| field.whole.len()).sum();
    assert!(fields_bytes <= header.len() && header.len() - fields_bytes <= 2);
    structure.field(0, FieldName::Date).map(parse_date);
    let mut out = Vec::new();
    for extension in [Extension::Without, Extension::With] {
        write_body(&structure, extension, &mut out);
    }
    write_envelope(&structure, 0, &mut out);
    assert!(!out.contains(&0));

    for name in ["base64", "quoted-printable"] {
        let decoded = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let mut decoder = Decoder::from_name(name.as_bytes()).expect("an encoding");
            let mut out = Vec::new();
            pieces.for_each(|piece| decoder.decode(piece, &mut out));
            decoder.finish(&mut out);
            out
        };
        let whole = decoded(&mut [content].into_iter());
        assert!(whole.len() <= content.len());
        assert_eq!(decoded(&mut content.chunks(1)), whole);
    }
});
