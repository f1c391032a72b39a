//! A SOCKS proxy's octets: nothing that stands behind its messages is taken.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::proto::sasl::Credentials;
use ringpost::proto::socks5::{Client, Step};

fuzz_target!(|input: &[u8]| {
    let [settings, proxy @ ..] = input else { return };
    let (name, password) = ("user".to_owned(), "secret".to_owned());
    let credentials = Credentials { authorization_id: String::new(), name, password };
    let credentials = (settings & 1 == 0).then_some(&credentials);
    let destination = if settings & 2 == 0 { "192.0.2.1:25" } else { "[2001:db8::1]:25" };
    let mut client = Client::new(destination.parse().expect("an address"), credentials);
    let (mut start, mut end, mut count) = (0, 0, 0);
    loop {
        count += 1;
        assert!(count < 20, "each step takes something");
        match client.next(&proxy[start..end]) {
            Ok(Step::Need(more)) => {
                assert!((1..=259).contains(&more));
                if end + more > proxy.len() {
                    return;
                }
                end += more;
            }
            Ok(Step::Send(message)) => {
                assert!(!message.is_empty());
                start = end;
            }
            Ok(Step::Connected) => {
                assert!(client.has_asked() && end - start >= 7);
                return;
            }
            Err(refusal) => {
                assert!(!refusal.to_string().is_empty());
                return;
            }
        }
    }
});
