//! A server's octets to the SMTP client: cut anywhere, they mean the same.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use ringpost::mail::{EnvelopeFlags, Recipient, TlsTag};
use ringpost::proto::sasl::client::Offer;
use ringpost::proto::sasl::digest::Hashes;
use ringpost::proto::sasl::Credentials;
use ringpost::proto::smtp::client::{Begin, Client, Event, Transaction};
use ringpost::proto::smtp::server::Dialect;

fn run(dialect: Dialect, pieces: &[&[u8]]) -> Vec<String> {
    let mut client = Client::new(dialect, "client.test");
    let (name, password) = ("user".to_owned(), "secret".to_owned());
    let credentials = Credentials { authorization_id: String::new(), name, password };
    let mut credentials = Some(Arc::new(credentials));
    // Hashes that are no hashes: what a server has to prove is known.
    let hashes = Hashes { sha256: |_| [0; 32], hmac_sha256: |_, _| [0; 32] };
    let (mut seen, mut kept) = (Vec::new(), Vec::new());
    for piece in pieces {
        kept.extend_from_slice(piece);
        loop {
            let mut out = Vec::new();
            let (taken, event) = client.next(&kept, &mut out);
            kept.drain(..taken);
            seen.push(String::from_utf8_lossy(&out).into_owned());
            match event {
                Event::NeedInput => {
                    seen.retain(|it| !it.is_empty());
                    break;
                }
                Event::Ready if client.capabilities().start_tls => client.start_tls(&mut out),
                // What comes next is another dialogue.
                Event::StartTls => {
                    seen.push("starttls".to_owned());
                    seen.retain(|it| !it.is_empty());
                    return seen;
                }
                Event::TlsRefused(reply) | Event::NotAuthenticated(reply) => {
                    seen.push(format!("{reply}"));
                }
                Event::SaltPassword(recipe) => {
                    seen.push(format!("{recipe:?}"));
                    client.on_salted(&[1; 32], &mut out);
                    seen.push(String::from_utf8_lossy(&out).into_owned());
                }
                Event::Ready
                    if client.capabilities().mechanisms != Offer::default()
                        && credentials.is_some() =>
                {
                    let credentials = credentials.take().expect("looked at above");
                    let nonce = "0123456789abcdefghijklmn";
                    let said = client.authenticate(&credentials, nonce, hashes, &mut out);
                    said.expect("a mechanism is offered");
                    seen.push(String::from_utf8_lossy(&out).into_owned());
                }
                Event::Ready | Event::Authenticated => {
                    let recipients = ["c@d.test", "e@d.test"].map(Recipient::new);
                    let transaction = Transaction {
                        reverse_path: "a@b.test",
                        recipients: &recipients.each_ref(),
                        flags: EnvelopeFlags(EnvelopeFlags::RETURN_FULL),
                        tls: TlsTag::RequiredWhereOffered,
                        envelope_id: Some("Q"),
                        message_bytes: 10,
                    };
                    let begin = client.begin(&transaction, &mut out);
                    if begin == Begin::ContentFollows {
                        client.content_sent();
                    }
                    seen.push(format!("{begin:?}"));
                }
                Event::SendContent => client.content_sent(),
                Event::Closed(reply) => {
                    seen.push(format!("{reply} {:?}", client.lost()));
                    seen.retain(|it| !it.is_empty());
                    return seen;
                }
                // One transaction is enough.
                Event::Done(replies) => {
                    seen.push(format!("{replies:?}"));
                    seen.retain(|it| !it.is_empty());
                    return seen;
                }
                Event::Write => {}
            }
        }
        assert!(kept.len() < 4096);
    }
    seen
}

fuzz_target!(|input: &[u8]| {
    let [settings, cut, input @ ..] = input else { return };
    let dialect = if settings & 1 == 0 { Dialect::Smtp } else { Dialect::Lmtp };
    let whole = run(dialect, &[input]);
    let cut = usize::from(*cut) % (input.len() + 1);
    assert_eq!(run(dialect, &[&input[..cut], &input[cut..]]), whole);
});
