//! A host's octets to the machine that asks for mailboxes: cut anywhere, they mean the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::proto::smtp::prober::{Event, Prober};
use ringpost::proto::smtp::server::Dialect;

fn run(utf8: bool, pieces: &[&[u8]]) -> (Vec<u8>, Vec<Event>) {
    let mut prober = Prober::new(Dialect::Smtp, "us.test", "", utf8);
    let (mut said, mut events, mut kept, mut asked) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let mut asks_for_tls = false;
    for piece in pieces {
        kept.extend_from_slice(piece);
        loop {
            let (taken, event) = prober.next(&kept, &mut said);
            kept.drain(..taken);
            match &event {
                Event::NeedInput => break,
                Event::Write => {}
                Event::Greeted if prober.offers_tls() => {
                    asks_for_tls = true;
                    prober.start_tls(&mut said);
                }
                Event::Greeted | Event::TlsRefused(_) => {
                    asks_for_tls = false;
                    if prober.begin(&mut said).is_err() {
                        return (said, events);
                    }
                }
                // Behind it is another dialogue, or it is closed for what stands there.
                Event::StartTls | Event::Closed(_) if asks_for_tls => return (said, events),
                Event::StartTls => unreachable!("nobody asked for it"),
                Event::Ready | Event::Answered(_) if asked < 2 => {
                    asked += 1;
                    prober.ask("a@b.test", &mut said);
                }
                Event::Ready | Event::Answered(_) => prober.end(&mut said),
                Event::Refused(..) | Event::Ended | Event::Closed(_) => {
                    events.push(event);
                    return (said, events);
                }
            }
            events.push(event);
        }
    }
    (said, events)
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, data)) = data.split_first() else { return };
    let (one, two) = data.split_at(usize::from(cut).min(data.len()));
    for utf8 in [false, true] {
        let whole = run(utf8, &[data]);
        assert_eq!(whole, run(utf8, &[one, two]));
        assert!(!whole.0.windows(4).any(|word| word == b"DATA"));
    }
});
