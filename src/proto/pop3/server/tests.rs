//! Dialogues whole and cut at every octet, over a maildrop of three messages.

use super::*;

const MESSAGES: [&[u8]; 3] =
    [b"A: 1\r\n\r\none\r\n.two\r\nthree\r\n", b"B: 2\r\n\r\n", b"C: 3\r\n\r\nx\r\n"];

fn run(channel: Channel, pieces: &[&[u8]]) -> (String, Vec<String>) {
    let config = ServerConfig {
        hostname: "pop.test".into(),
        mechanisms: "PLAIN SCRAM-SHA-256".into(),
        errors_max: 3,
    };
    let mut server = Server::new(Rc::new(config), channel);
    let (mut out, mut seen, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    let total = MESSAGES.iter().map(|message| message.len() as u64).sum();
    let content = |number: u32| MESSAGES[number as usize - 1];
    'pieces: for piece in pieces {
        kept.extend_from_slice(piece);
        let mut at = 0;
        loop {
            let (taken, event) = server.next(&kept[at..], &mut out);
            at += taken;
            match event {
                Event::NeedInput => break,
                Event::Login { password } => {
                    let password = String::from_utf8_lossy(password).into_owned();
                    let name = server.login_name().expect("USER came first");
                    seen.push(format!("{} {password}", String::from_utf8_lossy(name)));
                    match password.as_str() {
                        "right" => server.open(3, total, &mut out),
                        "busy" => server.refuse_login(LoginRefusal::InUse, &mut out),
                        _ => server.refuse_login(LoginRefusal::Credentials, &mut out),
                    }
                }
                Event::Authenticate { mechanism, initial_response } => {
                    seen.push(format!("{mechanism} {}", initial_response.is_some()));
                    match initial_response {
                        Some(_) => server.open(3, total, &mut out),
                        None => server.challenge("", &mut out),
                    }
                }
                Event::Response(b"*") => server.refuse_login(LoginRefusal::Cancelled, &mut out),
                Event::Response(line) => {
                    seen.push(String::from_utf8_lossy(line).into_owned());
                    server.open(3, total, &mut out);
                }
                Event::StartTls => {
                    seen.push("tls".into());
                    server.on_tls();
                }
                Event::ListAll(listing) => {
                    let deleted = server.deleted().expect("an open maildrop");
                    for number in (1..=3).filter(|number| !deleted.contains(*number)) {
                        match listing {
                            Listing::Sizes => {
                                write_size(number, content(number).len() as u64, &mut out);
                            }
                            Listing::UniqueIds => {
                                write_unique_id(number, &format!("7-{number}"), &mut out);
                            }
                        }
                    }
                    end_list(&mut out);
                }
                Event::ListOne(Listing::Sizes, number) => {
                    server.answer_size(content(number).len() as u64, &mut out);
                }
                Event::ListOne(Listing::UniqueIds, number) => {
                    server.answer_unique_id(&format!("7-{number}"), &mut out);
                }
                Event::Retrieve { number, top_lines } => {
                    server.begin_content(content(number).len() as u64, &mut out);
                    let mut writer = content_writer(LeadingDot::Possible, top_lines);
                    writer.write(content(number), &mut out);
                    writer.finish(&mut out);
                }
                Event::Delete(number) => {
                    server.answer_deleted(content(number).len() as u64, &mut out);
                }
                Event::Commit => {
                    let deleted = server.deleted().expect("an open maildrop");
                    seen.push(format!("commit {:?}", deleted.ranges()));
                    server.answer_quit(Ok(()), &mut out);
                }
                Event::Close => {
                    seen.push("close".into());
                    break 'pieces;
                }
            }
        }
        kept.drain(..at);
        assert!(kept.len() <= COMMAND_LINE_BYTES_MAX);
    }
    (String::from_utf8(out).expect("UTF-8"), seen)
}

fn check(channel: Channel, input: &str, output: &str, seen: &[&str]) {
    let input = input.as_bytes();
    let whole = run(channel, &[input]);
    assert_eq!(whole.0, output, "{:?}", String::from_utf8_lossy(input));
    assert_eq!(whole.1, seen);
    for cut in 0..=input.len() {
        assert_eq!(run(channel, &[&input[..cut], &input[cut..]]), whole, "cut at {cut}");
    }
    let octets: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(run(channel, &octets), whole, "octet by octet");
}

const OPENED: &str = "+OK Password, please\r\n+OK 3 messages, 45 octets\r\n";

/// After a login.
fn check_open(input: &str, output: &str, seen: &[&str]) {
    let input = format!("USER u\r\nPASS right\r\n{input}");
    let all: Vec<&str> = ["u right"].iter().chain(seen).copied().collect();
    check(Channel::Protected, &input, &format!("{OPENED}{output}"), &all);
}

#[test]
fn a_session_reads_and_deletes_in_one_commit() {
    check_open(
        "STAT\r\nLIST\r\nUIDL\r\nLIST 2\r\nUIDL 3\r\nDELE 2\r\nSTAT\r\nLIST\r\nRETR 1\r\nQUIT\r\n",
        "+OK 3 45\r\n\
         +OK 3 messages (45 octets)\r\n1 26\r\n2 8\r\n3 11\r\n.\r\n\
         +OK Unique ids follow\r\n1 7-1\r\n2 7-2\r\n3 7-3\r\n.\r\n\
         +OK 2 8\r\n+OK 3 7-3\r\n+OK Marked as deleted\r\n+OK 2 37\r\n\
         +OK 2 messages (37 octets)\r\n1 26\r\n3 11\r\n.\r\n\
         +OK 26 octets\r\nA: 1\r\n\r\none\r\n..two\r\nthree\r\n.\r\n+OK Bye\r\n",
        &["commit [(2, 2)]", "close"],
    );
}

#[test]
fn top_and_reset() {
    check_open(
        "TOP 1 1\r\nDELE 1\r\nRETR 1\r\nDELE 1\r\nDELE 3\r\nRSET\r\nSTAT\r\nNOOP\r\nQUIT\r\n",
        "+OK Top follows\r\nA: 1\r\n\r\none\r\n.\r\n+OK Marked as deleted\r\n\
         -ERR No such message\r\n-ERR No such message\r\n+OK Marked as deleted\r\n\
         +OK Nothing is marked as deleted\r\n+OK 3 45\r\n+OK Nothing done\r\n+OK Bye\r\n",
        &["commit []", "close"],
    );
}

#[test]
fn without_quit_nothing_is_committed() {
    check_open("DELE 1\r\n", "+OK Marked as deleted\r\n", &[]);
}

#[test]
fn logins_are_refused_with_a_code() {
    check(
        Channel::Protected,
        "PASS x\r\nUSER a\r\nPASS  b\r\nUSER a\r\nPASS busy\r\nQUIT\r\n",
        "-ERR USER comes first\r\n+OK Password, please\r\n-ERR [AUTH] Wrong name or password\r\n\
         +OK Password, please\r\n-ERR [IN-USE] Too many sessions of this mailbox\r\n+OK Bye\r\n",
        &["a  b", "a busy", "close"],
    );
}

#[test]
fn guessing_ends_the_session() {
    let guess = "USER a\r\nPASS  x\r\n";
    let refused = "+OK Password, please\r\n-ERR [AUTH] Wrong name or password\r\n";
    check(
        Channel::Protected,
        &guess.repeat(5),
        &format!("{}-ERR Too many errors; closing\r\n", refused.repeat(4)),
        &["a  x", "a  x", "a  x", "a  x", "close"],
    );
}

#[test]
fn passwords_need_a_protected_channel() {
    check(
        Channel::PlainWithStls,
        "USER a\r\nAUTH PLAIN\r\nSTLS\r\nSTLS\r\nUSER u\r\nPASS right\r\nSTLS\r\n",
        "-ERR [SYS/PERM] Passwords need TLS\r\n-ERR [SYS/PERM] Passwords need TLS\r\n\
         +OK Begin TLS\r\n-ERR STLS is not offered\r\n+OK Password, please\r\n\
         +OK 3 messages, 45 octets\r\n-ERR Too many errors; closing\r\n",
        &["tls", "u right", "close"],
    );
}

#[test]
fn capabilities_follow_the_channel() {
    let rest = "TOP\r\nUIDL\r\nPIPELINING\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nUTF8\r\n\
        EXPIRE NEVER\r\nIMPLEMENTATION ringpost\r\n.\r\n";
    let output = |first: &str| format!("+OK Capabilities follow\r\n{first}{rest}");
    check(Channel::Plain, "CAPA\r\n", &output(""), &[]);
    check(Channel::PlainWithStls, "CAPA\r\n", &output("STLS\r\n"), &[]);
    let protected = output("USER\r\nSASL PLAIN SCRAM-SHA-256\r\n");
    check(Channel::Protected, "CAPA\r\n", &protected, &[]);
}

#[test]
fn authentication_by_sasl() {
    check(
        Channel::Protected,
        "AUTH\r\nAUTH GSSAPI\r\nAUTH plain\r\n*\r\nAUTH PLAIN\r\nAGEAYg==\r\nSTAT\r\n",
        "+OK Mechanisms follow\r\nPLAIN\r\nSCRAM-SHA-256\r\n.\r\n-ERR Mechanism not offered\r\n\
         + \r\n-ERR Authentication was given up\r\n+ \r\n+OK 3 messages, 45 octets\r\n+OK 3 45\r\n",
        &["plain false", "PLAIN false", "AGEAYg=="],
    );
    check(
        Channel::Protected,
        "AUTH PLAIN AGEAYg==\r\nUTF8\r\n",
        "+OK 3 messages, 45 octets\r\n-ERR Not in an open mailbox\r\n",
        &["PLAIN true"],
    );
}

#[test]
fn errors_are_counted() {
    check(
        Channel::Protected,
        "X\r\n\r\nSTAT\r\nUTF8\r\nRETR 0\r\nNOOP\r\n",
        "-ERR Unknown command\r\n-ERR Unknown command\r\n-ERR Log in first\r\n+OK UTF-8 it is\r\n\
         -ERR Too many errors; closing\r\n",
        &["close"],
    );
}

#[test]
fn a_line_without_end_is_passed_over_in_bounded_memory() {
    let mut input = vec![b'x'; 3 * COMMAND_LINE_BYTES_MAX];
    input.extend_from_slice(b"\r\nCAPA\r\n");
    let whole = run(Channel::Plain, &[&input]);
    assert!(whole.0.starts_with("-ERR Line too long\r\n+OK Capabilities"));
    let pieces: Vec<&[u8]> = input.chunks(999).collect();
    assert_eq!(run(Channel::Plain, &pieces), whole);
}
