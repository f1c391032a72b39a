//! A client's octets to the SMTP server: cut anywhere, they get the same replies and events.
#![no_main]

use std::rc::Rc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use ringpost::limits::COMMAND_LINE_BYTES_MAX;
use ringpost::mail::{Reply, status};
use ringpost::proto::smtp::data::BareNewline;
use ringpost::proto::smtp::server::{Channel, Dialect, Event, Server, ServerConfig};

fn run(config: &Rc<ServerConfig>, channel: Channel, pieces: &[&[u8]]) -> (Vec<u8>, Vec<String>) {
    let mut server = Server::new(config.clone(), channel);
    let (mut out, mut seen, mut content, mut kept) = (vec![], vec![], vec![], Vec::new());
    let ok = Reply::new(250, status::OK, "Ok");
    for piece in pieces {
        kept.extend_from_slice(piece);
        let mut at = 0;
        loop {
            let (taken, event) = server.next(&kept[at..], &mut out);
            at += taken;
            match event {
                Event::NeedInput => break,
                Event::Content(piece) => content.extend_from_slice(piece),
                Event::ContentEnd(end) => {
                    assert_eq!(end.bytes, content.len() as u64);
                    seen.push(format!("{end:?} {content:?}"));
                    content.clear();
                    match config.dialect {
                        Dialect::Smtp => server.answer(&ok, &mut out),
                        Dialect::Lmtp => {
                            let replies = vec![ok.clone(); server.recipient_count()];
                            server.answer_each(&replies, &mut out);
                        }
                    }
                }
                Event::Mail(_) | Event::Rcpt(_) | Event::Vrfy(_) | Event::BeginContent { .. } => {
                    seen.push(format!("{event:?}"));
                    server.answer(&ok, &mut out);
                }
                Event::StartTls => {
                    assert_eq!(at, kept.len());
                    return (out, seen);
                }
                Event::Quit | Event::Close => return (out, seen),
                Event::ContentRefused | Event::Reset => {
                    content.clear();
                    seen.push(format!("{event:?}"));
                }
            }
        }
        kept.drain(..at);
        assert!(kept.len() <= COMMAND_LINE_BYTES_MAX);
    }
    (out, seen)
}

fuzz_target!(|input: &[u8]| {
    let [settings, cut, input @ ..] = input else { return };
    let config = Rc::new(ServerConfig {
        hostname: "mx.test".into(),
        dialect: if settings & 1 == 0 { Dialect::Smtp } else { Dialect::Lmtp },
        message_bytes_max: 200,
        recipients_max: 2,
        errors_max: 50,
        received_fields_max: 1,
        bare_newline: if settings & 2 == 0 { BareNewline::Refuse } else { BareNewline::Normalise },
        messages_max: 5,
        hold_max: (settings & 4 != 0).then_some(Duration::from_secs(600)),
    });
    let channel = [Channel::Plain, Channel::PlainWithStartTls][usize::from(settings & 8 != 0)];
    let whole = run(&config, channel, &[input]);
    let cut = usize::from(*cut) % (input.len() + 1);
    assert_eq!(run(&config, channel, &[&input[..cut], &input[cut..]]), whole);
    let octets: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(run(&config, channel, &octets), whole);
});
