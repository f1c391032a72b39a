//! The SMTP server machine, the content decoder, and what a reply means:
//! `cargo bench --bench smtp`.

use std::hint::black_box;
use std::rc::Rc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringpost::config::Config;
use ringpost::mail::{Reply, status};
use ringpost::proto::classify::ReplyContext;
use ringpost::proto::smtp::data::{BareNewline, ContentDecoder, Framing, Step};
use ringpost::proto::smtp::server::{Channel, Dialect, Event, Server, ServerConfig};

fn config() -> Rc<ServerConfig> {
    Rc::new(ServerConfig {
        hostname: "mx.test".into(),
        dialect: Dialect::Smtp,
        message_bytes_max: 64 << 20,
        recipients_max: 1000,
        errors_max: 20,
        received_fields_max: 50,
        bare_newline: BareNewline::Refuse,
        messages_max: u32::MAX,
        hold_max: None,
    })
}

/// Runs the machine over `input`; returns the octets of content it handed out.
fn run(server: &mut Server, input: &[u8], out: &mut Vec<u8>) -> usize {
    let ok = Reply::new(250, status::OK, "Ok");
    let (mut at, mut content_bytes) = (0, 0);
    loop {
        let (taken, event) = server.next(&input[at..], out);
        at += taken;
        match event {
            Event::NeedInput => return content_bytes,
            Event::Content(piece) => content_bytes += piece.len(),
            Event::Reset | Event::ContentRefused => {}
            Event::Quit | Event::Close => panic!("the session goes on"),
            _ => server.answer(&ok, out),
        }
    }
}

/// Lines of ordinary length.
fn content(bytes: usize) -> Vec<u8> {
    b"The quick brown fox jumps over the lazy dog, again and again, for ever.\r\n"
        .repeat(bytes / 73)
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("smtp");

    let mut commands = Vec::new();
    for _ in 0..100 {
        commands.extend_from_slice(
            b"MAIL FROM:<bounce-0123456789@mail.example.test> SIZE=4096 BODY=8BITMIME\r\n\
              RCPT TO:<some.recipient+tag@destination.example.test>\r\nRSET\r\n",
        );
    }
    group.throughput(Throughput::Bytes(commands.len() as u64));
    group.bench_function("commands", |bencher| {
        let mut server = Server::new(config(), Channel::Plain);
        let mut out = Vec::new();
        run(&mut server, b"EHLO client.test\r\n", &mut out);
        bencher.iter(|| {
            out.clear();
            run(&mut server, black_box(&commands), &mut out)
        });
    });

    let content_64k = content(64 * 1024);
    group.throughput(Throughput::Bytes(content_64k.len() as u64));
    group.bench_function("content decoder, 64 KiB", |bencher| {
        let mut decoder = ContentDecoder::new(Framing::Dot, BareNewline::Refuse);
        bencher.iter(|| {
            let input = black_box(content_64k.as_slice());
            let (mut at, mut handed_out) = (0, 0);
            loop {
                let (taken, step) = decoder.next(&input[at..]);
                at += taken;
                match step {
                    Step::Piece(piece) => handed_out += piece.len(),
                    Step::NeedInput => return handed_out,
                    Step::End => unreachable!("no dot"),
                }
            }
        });
    });

    let message = [
        b"MAIL FROM:<a@from.example.test>\r\nRCPT TO:<b@to.example.test>\r\nDATA\r\n".as_slice(),
        &content(4096),
        b".\r\n",
    ]
    .concat();
    group.throughput(Throughput::Elements(1));
    group.bench_function("a message of 4 KiB", |bencher| {
        let mut server = Server::new(config(), Channel::Plain);
        let mut out = Vec::new();
        run(&mut server, b"EHLO client.test\r\n", &mut out);
        bencher.iter(|| {
            out.clear();
            run(&mut server, black_box(&message), &mut out)
        });
    });

    let rules = Config::embedded().delivery.rules;
    let text = "The email account that you tried to reach does not exist. Please try\ndouble-\
                checking the recipient's email address for typos or unnecessary spaces.";
    for (name, reply) in [
        (
            "judge an early rule",
            Reply::new(450, status::OTHER_TRANSIENT, "receiving mail too quickly"),
        ),
        ("judge a late rule", Reply::new(550, status::BAD_MAILBOX, text)),
        ("judge by the code alone", Reply::bare(550, "No")),
    ] {
        group.bench_function(name, |bencher| {
            let site = "smtp://192.0.2.1:25";
            bencher.iter(|| {
                let reply = black_box(&reply);
                let domain = "example.test";
                rules.judge(&ReplyContext { reply, site, domain, source: "", tenant: "" })
            });
        });
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
