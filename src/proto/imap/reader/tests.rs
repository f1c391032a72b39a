//! Dialogues whole and cut at every octet.

use super::*;

/// Runs a reader over `pieces`; the driver accepts messages up to 20 octets for mailboxes that are
/// not called `full`.
fn run(pieces: &[&[u8]]) -> (String, Vec<String>) {
    let mut reader = Reader::default();
    let mut out = Vec::new();
    let mut seen = Vec::new();
    let mut content = Vec::new();
    let mut append_tag = None;
    for piece in pieces {
        let mut at = 0;
        loop {
            let (taken, event) = reader.next(&piece[at..], &mut out);
            at += taken;
            let announced = match event {
                Event::NeedInput => break,
                Event::Command { tag, command } => {
                    seen.push(format!("{} {command:?}", tag.as_str()));
                    match command {
                        Command::Idle => reader.expect_done(tag),
                        Command::Authenticate { .. } => reader.expect_response(tag),
                        Command::Login { .. } => reader.on_authenticated(),
                        _ => {}
                    }
                    continue;
                }
                Event::Append(Append { tag, mailbox, message }) => {
                    seen.push(format!("{} append {}", tag.as_str(), mailbox.as_str()));
                    append_tag = Some(tag);
                    (message, mailbox.as_str() == "full")
                }
                Event::AppendNext(message) => (message, false),
                Event::Content(octets) => {
                    content.extend_from_slice(octets);
                    continue;
                }
                Event::AppendEnd => {
                    seen.push(format!("end {:?}", String::from_utf8_lossy(&content)));
                    content.clear();
                    continue;
                }
                Event::Response(line) => {
                    seen.push(format!("response {}", String::from_utf8_lossy(&line)));
                    continue;
                }
                Event::Done | Event::Refused => {
                    content.clear();
                    seen.push(format!("{event:?}"));
                    continue;
                }
            };
            let (message, is_full) = announced;
            seen.push(format!("message {} {:?}", message.bytes, message.form));
            if is_full || message.bytes > 20 {
                let tag = append_tag.as_ref().expect("an APPEND is under way");
                out.extend_from_slice(format!("{} NO\r\n", tag.as_str()).as_bytes());
                reader.refuse_append();
            } else {
                reader.accept_message(&mut out);
            }
        }
        assert_eq!(at, piece.len(), "all input is consumed");
        assert!(reader.kept.len() <= reader.command_bytes_max);
    }
    (String::from_utf8(out).expect("UTF-8"), seen)
}

fn check(input: &str, output: &str, seen: &[&str]) {
    let input = input.as_bytes();
    let whole = run(&[input]);
    assert_eq!(whole.0, output, "{:?}", String::from_utf8_lossy(input));
    assert_eq!(whole.1, seen, "{:?}", String::from_utf8_lossy(input));
    for cut in 0..=input.len() {
        assert_eq!(run(&[&input[..cut], &input[cut..]]), whole, "cut at {cut}");
    }
    let octets: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(run(&octets), whole, "octet by octet");
}

#[test]
fn commands_are_pipelined() {
    check("a NOOP\r\nb noop\nc LOGOUT\r\n", "", &["a Noop", "b Noop", "c Logout"]);
    check("\r\n\r\na NOOP\r\n", "", &["a Noop"]);
}

#[test]
fn what_is_no_command_is_answered_with_bad() {
    check(
        "a XYZ\r\n+ NOOP\r\nb\r\nc NOOP x\r\nd LOGIN x\r\n",
        "a BAD Unknown command\r\n* BAD Bad tag\r\nb BAD Missing command\r\n\
         c BAD Unexpected text at the end\r\nd BAD Missing argument\r\n",
        &["Refused"; 5],
    );
}

#[test]
fn literals_are_arguments() {
    let login = "a Login { name: [97, 123, 51, 125, 13, 10], password: [98] }";
    check("a LOGIN {6}\r\na{3}\r\n {1}\r\nb\r\n", "+ OK\r\n+ OK\r\n", &[login]);
    check("a LOGIN {6+}\r\na{3}\r\n \"b\"\r\n", "", &[login]);
    check("a LOGIN {6+}\r\na{3}\r\n {1+}\r\nb\r\nb NOOP\r\n", "", &[login, "b Noop"]);
    check("a DELETE {0+}\r\n\r\n", "", &["a Delete(MailboxName(\"\"))"]);
}

#[test]
fn a_literal_that_is_too_long_is_passed_over() {
    let input = format!("a LOGIN {{9000+}}\r\n{} x {{3+}}\r\nabc\r\nb NOOP\r\n", "x".repeat(9000));
    let (out, seen) = run(&[input.as_bytes()]);
    assert_eq!(out, "a BAD Command too long\r\n");
    assert_eq!(seen, ["Refused", "b Noop"]);
    let octets: Vec<&[u8]> = input.as_bytes().chunks(1).collect();
    assert_eq!(run(&octets), (out, seen));
    // A client that waits is told at once.
    check("a LOGIN {9000}\r\nb NOOP\r\n", "a BAD Command too long\r\n", &["Refused", "b Noop"]);
}

#[test]
fn lines_are_bounded_and_longer_after_login() {
    let long = format!("a LOGIN x {}\r\nb NOOP\r\n", "y".repeat(9000));
    let bad =
        ("a BAD Command too long\r\n".to_owned(), vec!["Refused".to_owned(), "b Noop".into()]);
    assert_eq!(run(&[long.as_bytes()]), bad);
    for size in [1, 2, 3, 1000, 8192] {
        let pieces: Vec<&[u8]> = long.as_bytes().chunks(size).collect();
        assert_eq!(run(&pieces), bad, "in pieces of {size}");
    }
    let set = vec!["4294967295"; 5900].join(",");
    let input = format!("a LOGIN x y\r\nb UID FETCH {set} (FLAGS)\r\n");
    assert!(set.len() > 64_000);
    for size in [1, 1000, usize::MAX] {
        let pieces: Vec<&[u8]> = input.as_bytes().chunks(size).collect();
        let (out, seen) = run(&pieces);
        assert_eq!((out.as_str(), seen.len()), ("", 2), "in pieces of {size}");
    }
}

#[test]
fn messages_pass_in_pieces() {
    check(
        "a APPEND inbox (\\Seen) {5}\r\na\r\nb}\r\nb NOOP\r\n",
        "+ OK\r\n",
        &["a append INBOX", "message 5 Text", "end \"a\\r\\nb}\"", "b Noop"],
    );
    check(
        "a APPEND {1+}\r\nx \" 1-Jan-2000 00:00:00 +0000\" ~{3+}\r\n{9}\r\n",
        "",
        &["a append x", "message 3 Binary", "end \"{9}\""],
    );
    check(
        "a APPEND x {0+}\r\n\r\nb NOOP\r\n",
        "",
        &["a append x", "message 0 Text", "end \"\"", "b Noop"],
    );
}

#[test]
fn an_append_may_have_several_messages() {
    check(
        "a APPEND x {1+}\r\n1 (\\Deleted) {2}\r\n23 UTF8 (~{1+}\r\n4)\r\n",
        "+ OK\r\n",
        &["a append x", "message 1 Text", "message 2 Text", "message 1 Utf8", "end \"1234\""],
    );
}

#[test]
fn a_refused_append_is_passed_over() {
    check(
        "a APPEND full {3}\r\nb NOOP\r\n",
        "a NO\r\n",
        &["a append full", "message 3 Text", "b Noop"],
    );
    check(
        "a APPEND full {3+}\r\nabc {2+}\r\nde\r\nb NOOP\r\n",
        "a NO\r\n",
        &["a append full", "message 3 Text", "b Noop"],
    );
    check(
        "a APPEND full {3+}\r\nabc {2}\r\nb NOOP\r\n",
        "a NO\r\n",
        &["a append full", "message 3 Text", "b Noop"],
    );
    check(
        "a APPEND x {3+}\r\nabc {30+}\r\n012345678901234567890123456789\r\nb NOOP\r\n",
        "a NO\r\n",
        &["a append x", "message 3 Text", "message 30 Text", "b Noop"],
    );
}

#[test]
fn a_broken_append_is_answered_with_bad() {
    check(
        "a APPEND x (\\Foo) {3+}\r\nabc\r\nb APPEND x {1+}\r\nyz\r\nc APPEND x\r\n\
         d APPEND x {1+}\r\ny (\\Foo) {1}\r\ne APPEND x UTF8 (~{1+}\r\ny\r\nf NOOP\r\n",
        "a BAD Unknown system flag\r\nb BAD Unexpected text behind a message\r\n\
         c BAD APPEND needs a message\r\nd BAD Unknown system flag\r\n\
         e BAD Unexpected text behind a message\r\n",
        &[
            "Refused",
            "b append x",
            "message 1 Text",
            "Refused",
            "Refused",
            "d append x",
            "message 1 Text",
            "Refused",
            "e append x",
            "message 1 Utf8",
            "Refused",
            "f Noop",
        ],
    );
}

#[test]
fn idle_ends_with_done_and_the_next_command_may_come_along() {
    check("a IDLE\r\nDONE\r\nb NOOP\r\n", "", &["a Idle", "Done", "b Noop"]);
    check(
        "a IDLE\r\nb NOOP\r\nc NOOP\r\n",
        "a BAD Expected DONE\r\n",
        &["a Idle", "Refused", "c Noop"],
    );
}

#[test]
fn authentication_has_lines_of_its_own() {
    check(
        "a AUTHENTICATE plain\r\nAGEAYg==\r\nb NOOP\r\n",
        "",
        &[
            "a Authenticate { mechanism: \"PLAIN\", initial_response: None }",
            "response AGEAYg==",
            "b Noop",
        ],
    );
}

#[test]
fn a_reader_between_commands_holds_no_memory() {
    let mut reader = Reader::default();
    let mut out = Vec::new();
    for piece in ["a LOG", "IN {1+}\r\n", "x y\r\n"] {
        let mut at = 0;
        while at < piece.len() {
            at += reader.next(&piece.as_bytes()[at..], &mut out).0;
        }
    }
    assert!(reader.is_between_commands());
    assert_eq!(reader.kept.capacity(), 0);
}
