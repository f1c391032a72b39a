//! A client's octets to the POP3 server: cut anywhere, they get the same replies and events.
#![no_main]

use std::rc::Rc;

use libfuzzer_sys::fuzz_target;
use ringpost::limits::COMMAND_LINE_BYTES_MAX;
use ringpost::proto::pop3::content::{LeadingDot, Progress};
use ringpost::proto::pop3::server::{Channel, Event, Listing, LoginRefusal};
use ringpost::proto::pop3::server::{Server, ServerConfig, content_writer, end_list};

const MESSAGE: &[u8] = b"A: b\r\n\r\n.one\r\ntwo\r\n";

fn run(config: &Rc<ServerConfig>, channel: Channel, pieces: &[&[u8]]) -> (Vec<u8>, Vec<String>) {
    let mut server = Server::new(config.clone(), channel);
    let (mut out, mut seen, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for piece in pieces {
        kept.extend_from_slice(piece);
        let mut at = 0;
        loop {
            let (taken, event) = server.next(&kept[at..], &mut out);
            at += taken;
            if event == Event::NeedInput {
                break;
            }
            seen.push(format!("{event:?}"));
            match event {
                Event::NeedInput => unreachable!("handled above"),
                Event::Login { password } if password.len() % 2 == 0 => {
                    server.refuse_login(LoginRefusal::Credentials, &mut out);
                }
                Event::Login { .. } | Event::Response(_) => server.open(3, 60, &mut out),
                Event::Authenticate { .. } => server.challenge("", &mut out),
                Event::StartTls => server.on_tls(),
                Event::ListAll(_) => end_list(&mut out),
                Event::ListOne(Listing::Sizes, _) => server.answer_size(20, &mut out),
                Event::ListOne(Listing::UniqueIds, _) => server.answer_unique_id("7", &mut out),
                Event::Retrieve { top_lines, .. } => {
                    server.begin_content(MESSAGE.len() as u64, &mut out);
                    let mut writer = content_writer(LeadingDot::Possible, top_lines);
                    for octet in MESSAGE.chunks(1) {
                        if writer.write(octet, &mut out) == Progress::Enough {
                            break;
                        }
                    }
                    writer.finish(&mut out);
                }
                Event::Delete(_) => server.answer_deleted(20, &mut out),
                Event::Commit => {
                    assert!(server.deleted().is_some_and(|deleted| deleted.count() <= 3));
                    server.answer_quit(Ok(()), &mut out);
                }
                Event::Close => return (out, seen),
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
        hostname: "pop.test".into(),
        mechanisms: "PLAIN".into(),
        errors_max: 50,
    });
    let channel =
        [Channel::Protected, Channel::PlainWithStls, Channel::Plain][usize::from(settings % 3)];
    let whole = run(&config, channel, &[input]);
    let cut = usize::from(*cut) % (input.len() + 1);
    assert_eq!(run(&config, channel, &[&input[..cut], &input[cut..]]), whole);
    let octets: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(run(&config, channel, &octets), whole);
});
