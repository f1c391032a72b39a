//! The handshake that asks whether mailboxes exist, without sockets: STARTTLS, MAIL, RCPT for one
//! address after the other, RSET, QUIT; never DATA.

use super::reply_reader::{ReplyReader, Taken};
use super::server::Dialect;
use crate::mail::{EnhancedStatusCode, Reply, status};

/// What happened.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Read more; what was not consumed comes again with more behind it.
    NeedInput,
    /// Write what is in `out`.
    Write,
    /// The greeting is done: `start_tls` where that is offered, or `begin`.
    Greeted,
    /// Begin TLS as the client; then `on_tls`, or drop the connection.
    StartTls,
    /// The server will not begin TLS now: `begin`, or drop the connection.
    TlsRefused(Reply),
    /// The server waits for a recipient: `ask` or `end`.
    Ready,
    /// The reply to the recipient asked for last; `ask` or `end`.
    Answered(Reply),
    /// The server will not talk with us, or not about mail: the reply that said so, and to what.
    Refused(&'static str, Reply),
    /// The session ended in order.
    Ended,
    /// The server closes, or talks nonsense.
    Closed(Reply),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Greeting,
    Ehlo,
    Helo,
    /// The caller says how to go on.
    Greeted,
    /// STARTTLS was said.
    StartTls,
    /// The server waits for the first octets of TLS.
    Handshake,
    Mail,
    /// It is the caller's turn.
    Turn,
    Rcpt,
    Reset,
    Quit,
    Over,
}

/// One session. Commands go one by one: what the server does to each is what is to be learnt.
pub struct Prober {
    dialect: Dialect,
    ehlo_name: Box<str>,
    reverse_path: Box<str>,
    /// Some address to ask for has octets above 127.
    needs_smtputf8: bool,
    phase: Phase,
    offers: Offers,
    reader: ReplyReader,
}

/// What the server said it can do.
#[derive(Clone, Copy, Default)]
struct Offers {
    start_tls: bool,
    smtputf8: bool,
}

impl Prober {
    /// Names and addresses are valid.
    pub fn new(
        dialect: Dialect,
        ehlo_name: &str,
        reverse_path: &str,
        needs_smtputf8: bool,
    ) -> Self {
        Self {
            dialect,
            ehlo_name: ehlo_name.into(),
            reverse_path: reverse_path.into(),
            needs_smtputf8,
            phase: Phase::Greeting,
            offers: Offers::default(),
            reader: ReplyReader::default(),
        }
    }

    /// The command whose reply is awaited, in words.
    pub fn awaits(&self) -> &'static str {
        match self.phase {
            Phase::Greeting => "connection",
            Phase::Ehlo | Phase::Helo => "EHLO",
            Phase::StartTls | Phase::Handshake => "STARTTLS",
            Phase::Greeted | Phase::Mail => "MAIL",
            Phase::Turn | Phase::Rcpt => "RCPT",
            Phase::Reset => "RSET",
            Phase::Quit | Phase::Over => "QUIT",
        }
    }

    /// Whether the server says that it can do TLS.
    pub fn offers_tls(&self) -> bool {
        self.offers.start_tls
    }

    /// Writes STARTTLS. Only after `Greeted`, where it is offered.
    pub fn start_tls(&mut self, out: &mut Vec<u8>) {
        assert_eq!(self.phase, Phase::Greeted);
        self.write(Phase::StartTls, "STARTTLS", out);
    }

    /// TLS protects the session from here on: what the server said before counts no more
    /// (RFC 3207 §4.2). Writes the greeting; `Greeted` follows.
    pub fn on_tls(&mut self, out: &mut Vec<u8>) {
        assert_eq!(self.phase, Phase::Handshake);
        self.offers = Offers::default();
        self.greet(out);
    }

    /// Begins the mail transaction; `Ready` follows. Only after `Greeted` or `TlsRefused`.
    ///
    /// On an error nothing is written: the server cannot take the address.
    pub fn begin(&mut self, out: &mut Vec<u8>) -> Result<(), Reply> {
        assert_eq!(self.phase, Phase::Greeted);
        if self.needs_smtputf8 && !self.offers.smtputf8 {
            self.phase = Phase::Over;
            return Err(NO_SMTPUTF8);
        }
        let parameters = if self.needs_smtputf8 { " SMTPUTF8" } else { "" };
        let line = format!("MAIL FROM:<{}>{parameters}", self.reverse_path);
        self.write(Phase::Mail, &line, out);
        Ok(())
    }

    /// Asks for a mailbox. Only after `Ready` or `Answered`.
    pub fn ask(&mut self, address: &str, out: &mut Vec<u8>) {
        assert_eq!(self.phase, Phase::Turn);
        self.phase = Phase::Rcpt;
        out.extend_from_slice(format!("RCPT TO:<{address}>\r\n").as_bytes());
    }

    /// Takes everything back and leaves. Only after `Ready` or `Answered`.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        assert_eq!(self.phase, Phase::Turn);
        self.phase = Phase::Reset;
        out.extend_from_slice(b"RSET\r\n");
    }

    /// Takes replies from the front of `input`; returns how much, and what happened.
    pub fn next(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Event) {
        if self.phase == Phase::Over {
            return (input.len(), Event::Ended);
        }
        match self.reader.next(input) {
            Taken::Partial(taken) => (taken, Event::NeedInput),
            Taken::Garbage => {
                self.phase = Phase::Over;
                (input.len(), Event::Closed(GARBAGE))
            }
            // Whatever the server says when it is the caller's turn, it says too early.
            Taken::Reply(_, reply) if self.is_callers_turn() && reply.code != 421 => {
                self.phase = Phase::Over;
                (input.len(), Event::Closed(GARBAGE))
            }
            Taken::Reply(taken, reply) => match self.on_reply(reply, out) {
                // What stands behind the 220 without protection is not the server's.
                Event::StartTls if taken < input.len() => {
                    self.phase = Phase::Over;
                    (input.len(), Event::Closed(GARBAGE))
                }
                event => (taken, event),
            },
        }
    }

    fn is_callers_turn(&self) -> bool {
        matches!(self.phase, Phase::Greeted | Phase::Handshake | Phase::Turn)
    }

    fn on_reply(&mut self, reply: Reply, out: &mut Vec<u8>) -> Event {
        let accepted = (200..300).contains(&reply.code);
        if reply.code == 421 {
            // It may come at any time (RFC 5321 §3.8).
            self.phase = Phase::Over;
            return Event::Closed(reply);
        }
        match self.phase {
            Phase::Greeting if accepted => {
                self.greet(out);
                Event::Write
            }
            Phase::Ehlo if accepted => {
                self.offers = read_offers(&reply.text);
                self.phase = Phase::Greeted;
                Event::Greeted
            }
            Phase::Ehlo if reply.is_permanent() && self.dialect == Dialect::Smtp => {
                self.write(Phase::Helo, &format!("HELO {}", self.ehlo_name), out);
                Event::Write
            }
            Phase::Helo if accepted => {
                self.phase = Phase::Greeted;
                Event::Greeted
            }
            Phase::StartTls if reply.code == 220 => {
                self.phase = Phase::Handshake;
                Event::StartTls
            }
            Phase::StartTls if !accepted => {
                self.phase = Phase::Greeted;
                Event::TlsRefused(reply)
            }
            Phase::Mail if accepted => {
                self.phase = Phase::Turn;
                Event::Ready
            }
            Phase::Greeting | Phase::Ehlo | Phase::Helo | Phase::Mail => self.refused(reply),
            Phase::Rcpt => {
                self.phase = Phase::Turn;
                Event::Answered(reply)
            }
            Phase::Reset => {
                self.write(Phase::Quit, "QUIT", out);
                Event::Write
            }
            Phase::StartTls => {
                self.phase = Phase::Over;
                Event::Closed(GARBAGE)
            }
            Phase::Quit | Phase::Turn | Phase::Greeted | Phase::Handshake | Phase::Over => {
                self.phase = Phase::Over;
                Event::Ended
            }
        }
    }

    fn greet(&mut self, out: &mut Vec<u8>) {
        let verb = if self.dialect == Dialect::Lmtp { "LHLO" } else { "EHLO" };
        self.write(Phase::Ehlo, &format!("{verb} {}", self.ehlo_name), out);
    }

    fn write(&mut self, phase: Phase, line: &str, out: &mut Vec<u8>) {
        self.phase = phase;
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    fn refused(&mut self, reply: Reply) -> Event {
        let command = self.awaits();
        self.phase = Phase::Over;
        Event::Refused(command, reply)
    }
}

fn read_offers(text: &str) -> Offers {
    // The first line is the server's name.
    let words = text.split('\n').skip(1).filter_map(|line| line.split_whitespace().next());
    let mut offers = Offers::default();
    for word in words {
        offers.start_tls |= word.eq_ignore_ascii_case("STARTTLS");
        offers.smtputf8 |= word.eq_ignore_ascii_case("SMTPUTF8");
    }
    offers
}

const GARBAGE: Reply =
    Reply::new(451, EnhancedStatusCode::new(4, 5, 0), "The server's reply makes no sense");
const NO_SMTPUTF8: Reply =
    Reply::new(553, status::NON_ASCII_ADDRESS, "The host does not take this address: no SMTPUTF8");

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that is said and happens, with `input` cut at `cut`; TLS begins at a `~`, if it
    /// is offered. Asks for two mailboxes.
    fn run(input: &[u8], cut: usize, utf8: bool) -> (String, Vec<String>) {
        let mut prober = Prober::new(Dialect::Smtp, "us.test", "p@us.test", utf8);
        let (mut said, mut events, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        let mut to_ask = vec!["two@d.test", "one@d.test"];
        let mut is_protected = false;
        let pieces = [&input[..cut], &input[cut..]];
        for piece in pieces.iter().flat_map(|piece| piece.split(|octet| *octet == b'~')) {
            kept.extend_from_slice(piece);
            loop {
                let (taken, event) = prober.next(&kept, &mut said);
                kept.drain(..taken);
                let mut is_over = false;
                match &event {
                    Event::NeedInput => break,
                    Event::Write => continue,
                    Event::Greeted if prober.offers_tls() && !is_protected => {
                        prober.start_tls(&mut said);
                    }
                    Event::Greeted | Event::TlsRefused(_) => {
                        if let Err(reply) = prober.begin(&mut said) {
                            events.push(format!("cannot {}", reply.code));
                            is_over = true;
                        }
                    }
                    Event::StartTls => {
                        is_protected = true;
                        said.push(b'~');
                        prober.on_tls(&mut said);
                    }
                    Event::Ready | Event::Answered(_) => match to_ask.pop() {
                        Some(address) => prober.ask(address, &mut said),
                        None => prober.end(&mut said),
                    },
                    Event::Refused(..) | Event::Ended | Event::Closed(_) => is_over = true,
                }
                match event {
                    Event::Greeted | Event::StartTls => {}
                    Event::Answered(reply) => events.push(format!("{}", reply.code)),
                    Event::TlsRefused(reply) => events.push(format!("no TLS {}", reply.code)),
                    Event::Refused(command, reply) => {
                        events.push(format!("{command} {}", reply.code));
                    }
                    Event::Closed(reply) => events.push(format!("closed {}", reply.code)),
                    event => events.push(format!("{event:?}")),
                }
                if is_over {
                    return (String::from_utf8(said).expect("ASCII"), events);
                }
            }
        }
        (String::from_utf8(said).expect("ASCII"), events)
    }

    fn check(input: &str, said: &str, expected: &[&str]) {
        for cut in 0..=input.len() {
            let (found, events) = run(input.as_bytes(), cut, false);
            assert_eq!((found.as_str(), events.as_slice()), (said, &*owned(expected)), "at {cut}");
        }
    }

    fn owned(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn two_mailboxes_are_asked_for_and_nothing_is_sent() {
        check(
            "220 hi\r\n250-mx\r\n250 SIZE\r\n250 ok\r\n250 ok\r\n550 5.1.1 no\r\n250 ok\r\n\
             221 \r\n",
            "EHLO us.test\r\nMAIL FROM:<p@us.test>\r\nRCPT TO:<one@d.test>\r\n\
             RCPT TO:<two@d.test>\r\nRSET\r\nQUIT\r\n",
            &["Ready", "250", "550", "Ended"],
        );
        // An old server.
        check(
            "220 hi\r\n502 what\r\n250 mx\r\n250 ok\r\n450 later\r\n",
            "EHLO us.test\r\nHELO us.test\r\nMAIL FROM:<p@us.test>\r\nRCPT TO:<one@d.test>\r\n\
             RCPT TO:<two@d.test>\r\n",
            &["Ready", "450"],
        );
    }

    #[test]
    fn refusals_before_a_recipient_are_told_from_those_of_one() {
        check("554 5.7.1 no\r\n", "", &["connection 554"]);
        check("220 hi\r\n451 x\r\n", "EHLO us.test\r\n", &["EHLO 451"]);
        let said = "EHLO us.test\r\nMAIL FROM:<p@us.test>\r\n";
        check("220 hi\r\n250 mx\r\n550 5.7.1 x\r\n", said, &["MAIL 550"]);
        check("220 hi\r\n250 mx\r\n421 bye\r\n", said, &["closed 421"]);
        check("hello\r\n", "", &["closed 451"]);
    }

    #[test]
    fn the_session_begins_anew_under_tls_and_nothing_before_it_counts() {
        check(
            "220 hi\r\n250-mx\r\n250-SIZE\r\n250 starttls\r\n220 go\r\n\
             ~250 mx\r\n250 ok\r\n",
            "EHLO us.test\r\nSTARTTLS\r\n~EHLO us.test\r\nMAIL FROM:<p@us.test>\r\n\
             RCPT TO:<one@d.test>\r\n",
            &["Ready"],
        );
        // It takes the offer back.
        check(
            "220 hi\r\n250-mx\r\n250 STARTTLS\r\n454 4.7.0 not now\r\n250 ok\r\n",
            "EHLO us.test\r\nSTARTTLS\r\nMAIL FROM:<p@us.test>\r\nRCPT TO:<one@d.test>\r\n",
            &["no TLS 454", "Ready"],
        );
        let said = "EHLO us.test\r\nSTARTTLS\r\n";
        check("220 hi\r\n250-mx\r\n250 STARTTLS\r\n250 what\r\n", said, &["closed 451"]);
        check("220 hi\r\n250-mx\r\n250 STARTTLS\r\n421 bye\r\n", said, &["closed 421"]);
        // Behind the 220, without protection.
        let injected = b"220 hi\r\n250-mx\r\n250 STARTTLS\r\n220 go\r\n250 mx\r\n";
        assert_eq!(run(injected, 0, false), (said.to_owned(), owned(&["closed 451"])));
        let offers = b"220 hi\r\n250-mx\r\n250-SMTPUTF8\r\n250 STARTTLS\r\n220 go\r\n~250 mx\r\n";
        assert_eq!(run(offers, 0, true).1, ["cannot 553"], "the first offers count no more");
    }

    #[test]
    fn an_address_of_more_than_ascii_needs_a_host_that_says_so() {
        let with = b"220 hi\r\n250-mx\r\n250 smtputf8\r\n250 ok\r\n";
        let (said, events) = run(with, 0, true);
        assert!(said.ends_with("MAIL FROM:<p@us.test> SMTPUTF8\r\nRCPT TO:<one@d.test>\r\n"));
        assert_eq!(events, ["Ready"]);
        let (_, events) = run(b"220 hi\r\n250 mx\r\n", 0, true);
        assert_eq!(events, ["cannot 553"]);
    }
}
