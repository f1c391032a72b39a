//! What IMAP does to messages: scanning, summaries, what is rendered of them, and looking through
//! texts: `cargo bench --bench imap`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringpost::proto::imap::envelope::write_envelope;
use ringpost::proto::imap::structure::{Extension, write_body};
use ringpost::proto::imap::summary::{Summary, write_summary};
use ringpost::proto::mime::field::FieldName;
use ringpost::proto::mime::haystack::{BodyEncoding, Haystack, Needles};
use ringpost::proto::mime::scan::scan;
use ringpost::proto::mime::stored::stored_fields;
use ringpost::proto::mime::structure::Structure;

const MESSAGE: &[u8] = b"Return-Path: <bounce@lists.example.test>\r\n\
    Received: from mx.example.test (mx.example.test [192.0.2.1]) by in.example.test with ESMTPS\r\n\
    \tfor <jo@example.test>; Thu, 26 Nov 2026 10:00:00 +0000\r\n\
    From: \"Some Sender\" <sender@example.test>\r\nTo: Jo <jo@example.test>, b@example.test\r\n\
    Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= and a subject of ordinary length\r\n\
    Date: Thu, 26 Nov 2026 10:00:00 +0000\r\nMessage-ID: <0123456789.abcdef@example.test>\r\n\
    Content-Type: multipart/alternative; boundary=\"=-boundary-0123456789\"\r\n\r\n\
    --=-boundary-0123456789\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n\
    Hello,\r\n\r\nsome text of a few lines, as it stands in most messages.\r\n\
    --=-boundary-0123456789\r\nContent-Type: text/html; charset=utf-8\r\n\r\n\
    <html><body><p>Hello,</p><p>some text of a few lines</p></body></html>\r\n\
    --=-boundary-0123456789--\r\n";

fn summaries(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("summary");
    group.throughput(Throughput::Bytes(MESSAGE.len() as u64));
    group.bench_function("scan", |bencher| bencher.iter(|| scan(black_box(MESSAGE))));
    let structure = scan(MESSAGE);
    let mut out = Vec::new();
    group.bench_function("write", |bencher| {
        bencher.iter(|| {
            out.clear();
            write_summary(structure.clone(), black_box(MESSAGE), 0, &mut out);
        });
    });
    let stored = out.clone();
    let summary = Summary::read(&stored).expect("a summary");
    group.bench_function("read", |bencher| bencher.iter(|| Summary::read(black_box(&stored))));
    group.bench_function("read the structure", |bencher| {
        bencher.iter(|| Structure::read(black_box(summary.structure)));
    });
    group.bench_function("ENVELOPE", |bencher| {
        bencher.iter(|| {
            out.clear();
            write_envelope(black_box(&structure), 0, &mut out);
        });
    });
    group.bench_function("BODYSTRUCTURE", |bencher| {
        bencher.iter(|| {
            out.clear();
            write_body(black_box(&structure), Extension::With, &mut out);
        });
    });
    let needles = Needles::new(&[b"no such thing".to_vec()]);
    let mut haystack = Haystack::new(&needles);
    for name in [FieldName::Subject, FieldName::From] {
        group.bench_function(format!("search {}", name.as_str()), |bencher| {
            bencher.iter(|| {
                let mut named = stored_fields(summary.structure).filter(|it| it.name == name);
                named.any(|field| haystack.field_has(0, black_box(field.body)))
            });
        });
    }
    group.finish();
}

fn bodies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("search a body");
    let text = b"The quick brown fox jumps over the lazy dog, again and again.\r\n".repeat(16_000);
    let cyrillic = "Съешь же ещё этих мягких французских булок, да выпей чаю.\r\n".repeat(9000);
    let base64 = b"VGhlIHF1aWNrIGJyb3duIGZveCBqdW1wcyBvdmVyIHRoZSBsYXp5IGRvZywgYWdhaW4g\r\n";
    let quoted = b"The quick brown fox =3D jumps over the lazy dog, again and ag=\r\nain.\r\n";
    let one_octet: Vec<u8> = (0..1_000_000).map(|at| 0xc0 + (at % 63) as u8).collect();
    for (name, header, body) in [
        ("ASCII", "", text),
        ("UTF-8", "", cyrillic.into_bytes()),
        ("windows-1251", "Content-Type: text/plain; charset=windows-1251\r\n", one_octet),
        ("base64", "Content-Transfer-Encoding: base64\r\n", base64.repeat(14_000)),
        (
            "quoted-printable",
            "Content-Transfer-Encoding: quoted-printable\r\n",
            quoted.repeat(14_000),
        ),
    ] {
        let structure = scan(format!("{header}\r\nx").as_bytes());
        let needles = Needles::new(&[b"no such thing".to_vec()]);
        let mut haystack = Haystack::new(&needles);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut encoding = BodyEncoding::of(&structure, 0).expect("text");
                haystack.begin();
                haystack.look_in_body(&mut encoding, black_box(&body));
                haystack.end_body(encoding);
                haystack.is_done()
            });
        });
    }
    group.finish();
}

criterion_group!(imap, summaries, bodies);
criterion_main!(imap);
