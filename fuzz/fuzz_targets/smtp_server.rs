//! A client's octets to the SMTP server: cut anywhere, they get the same replies and events.
#![no_main]

use std::rc::Rc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use ringpost::limits::COMMAND_LINE_BYTES_MAX;
use ringpost::mail::{Reply, status};
use ringpost::proto::smtp::data::BareNewline;
use ringpost::proto::smtp::server::{Channel, Dialect, Event, Server, ServerConfig, Wire};

fn run(
    config: &Rc<ServerConfig>,
    (channel, wire): (Channel, Option<Wire>),
    pieces: &[&[u8]],
) -> (Vec<u8>, Vec<String>) {
    let mut server = Server::new(config.clone(), channel);
    if let Some(wire) = wire {
        server = server.requiring_login(wire);
    }
    let (mut out, mut seen, mut content, mut kept) = (vec![], vec![], vec![], Vec::new());
    let ok = Reply::new(250, status::OK, "Ok");
    let authenticated = Reply::new(235, status::AUTHENTICATED, "Welcome");
    let wrong = Reply::new(535, status::WRONG_CREDENTIALS, "Wrong");
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
                Event::Auth { mechanism, initial_response } => {
                    seen.push(format!("{mechanism:?} {initial_response:?}"));
                    match initial_response {
                        None => server.challenge("Zg==", &mut out),
                        Some(_) => server.answer(&wrong, &mut out),
                    }
                }
                Event::AuthResponse(response) => {
                    seen.push(format!("{response:?}"));
                    match response.len() % 3 {
                        0 => server.answer(&authenticated, &mut out),
                        1 => server.challenge("", &mut out),
                        _ => server.answer(&wrong, &mut out),
                    }
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
    let wire = [None, None, Some(Wire::Open), Some(Wire::Loopback)][usize::from(settings >> 4 & 3)];
    let channel = (channel, wire);
    let whole = run(&config, channel, &[input]);
    let cut = usize::from(*cut) % (input.len() + 1);
    assert_eq!(run(&config, channel, &[&input[..cut], &input[cut..]]), whole);
    let octets: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(run(&config, channel, &octets), whole);
});
