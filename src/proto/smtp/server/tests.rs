//! Transcripts of `tests/data/smtp`, whole and cut at every octet.
//!
//! `C: ` lines are sent with CRLF (`\xNN` is an octet, `\` at the end leaves the CRLF out), `S: `
//! lines are what comes back until then, `= ` lines what the driver saw. A line `! KEY VALUE` sets
//! the configuration, `T:` ends the TLS handshake: what the client says next is protected.

use super::*;
use crate::mail::envelope::Notify;
use crate::mail::status;

/// Thu, 26 Nov 2026 06:00:00 +0000
const NOW_MS: u64 = 1_795_672_800_000;

struct Transcript {
    config: ServerConfig,
    channel: Channel,
    wire: Option<Wire>,
    input: Vec<u8>,
    /// What is said under TLS.
    protected: Vec<u8>,
    output: Vec<u8>,
    seen: Vec<String>,
}

fn read_transcript(text: &str) -> Transcript {
    let mut transcript = Transcript {
        config: ServerConfig {
            hostname: "mx.test".into(),
            dialect: Dialect::Smtp,
            message_bytes_max: 1000,
            recipients_max: 3,
            errors_max: 5,
            received_fields_max: 2,
            bare_newline: BareNewline::Refuse,
            messages_max: 3,
            hold_max: None,
        },
        channel: Channel::Plain,
        wire: None,
        input: Vec::new(),
        protected: Vec::new(),
        output: Vec::new(),
        seen: Vec::new(),
    };
    let mut is_protected = false;
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (kind, rest) = line.split_at(2.min(line.len()));
        match kind {
            "C:" => {
                let input = match is_protected {
                    false => &mut transcript.input,
                    true => &mut transcript.protected,
                };
                input.extend_from_slice(&unescape(rest.trim_start_matches(' ')));
            }
            "T:" => is_protected = true,
            "S:" => {
                transcript.output.extend_from_slice(rest.trim_start_matches(' ').as_bytes());
                transcript.output.extend_from_slice(b"\r\n");
            }
            "= " => transcript.seen.push(rest.to_owned()),
            "! " => match rest {
                "normalise" => transcript.config.bare_newline = BareNewline::Normalise,
                "hold" => transcript.config.hold_max = Some(Duration::from_secs(600)),
                "starttls" => transcript.channel = Channel::PlainWithStartTls,
                "login" => transcript.wire = Some(Wire::Open),
                "loopback" => transcript.wire = Some(Wire::Loopback),
                "tls" => transcript.channel = Channel::Tls,
                "lmtp" => transcript.config.dialect = Dialect::Lmtp,
                other => panic!("unknown setting {other}"),
            },
            other => panic!("unknown line {other:?}"),
        }
    }
    transcript
}

fn unescape(line: &str) -> Vec<u8> {
    let (line, ending) = match line.strip_suffix('\\') {
        Some(line) => (line, &b""[..]),
        None => (line, &b"\r\n"[..]),
    };
    let mut out = Vec::new();
    let mut rest = line;
    while let Some(at) = rest.find("\\x") {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        out.push(u8::from_str_radix(&rest[at + 2..at + 4], 16).expect("two hex digits"));
        rest = &rest[at + 4..];
    }
    out.extend_from_slice(rest.as_bytes());
    out.extend_from_slice(ending);
    out
}

/// Runs a machine over `pieces`.
fn run(config: &ServerConfig, pieces: &[&[u8]]) -> (Vec<u8>, Vec<String>) {
    let mut server = Server::new(Rc::new(config.clone()), Channel::Plain);
    let (mut out, mut seen) = (Vec::new(), Vec::new());
    drive(&mut server, config, pieces, &mut out, &mut seen);
    (out, seen)
}

/// Runs the machine over `pieces`, up to the handshake of TLS at the most; the driver refuses what
/// names `refused`.
fn drive(
    server: &mut Server,
    config: &ServerConfig,
    pieces: &[&[u8]],
    out: &mut Vec<u8>,
    seen: &mut Vec<String>,
) {
    server.set_now(NOW_MS);
    let mut content: Vec<u8> = Vec::new();
    let mut kept: Vec<u8> = Vec::new();
    let refusal = Reply::new(550, status::BAD_MAILBOX, "No such mailbox");
    let ok = Reply::new(250, status::OK, "Ok");
    let authenticated = Reply::new(235, status::AUTHENTICATED, "Welcome");
    let wrong = Reply::new(535, status::WRONG_CREDENTIALS, "Wrong");
    'pieces: for piece in pieces {
        kept.extend_from_slice(piece);
        let mut at = 0;
        loop {
            let (taken, event) = server.next(&kept[at..], out);
            at += taken;
            match event {
                Event::NeedInput => break,
                Event::Mail(mail) => {
                    let path = mail.reverse_path.map_or("<>", |path| path.as_str());
                    let envelope_id = mail.envelope_id.map_or(String::new(), |it| format!(" {it}"));
                    let hold = mail.hold.map(|hold| format!(" {}", hold.release_ms(NOW_MS)));
                    let hold = hold.unwrap_or_default();
                    let Mail { flags, size, .. } = mail;
                    let tls = if mail.require_tls { " requiretls" } else { "" };
                    let parameters = format!("{size:?}{envelope_id}{hold}{tls}");
                    seen.push(format!("mail {path} {} {parameters}", flags.0));
                    server.answer(&ok, out);
                }
                Event::Rcpt(rcpt) => {
                    let path = rcpt.forward_path.as_str();
                    let original = rcpt.original_recipient.unwrap_or("");
                    let dsn = match (rcpt.notify, original) {
                        (Notify::DEFAULT, "") => String::new(),
                        (notify, original) => format!(" {} {original}", notify.0),
                    };
                    seen.push(format!("rcpt {path}{dsn}").trim_end().to_owned());
                    let reply = if path.contains("refused") { &refusal } else { &ok };
                    server.answer(reply, out);
                }
                Event::Auth { mechanism, initial_response } => {
                    let response = initial_response.map_or("none".into(), String::from_utf8_lossy);
                    seen.push(format!("auth {} {response}", mechanism.as_str()));
                    match initial_response {
                        Some(b"right") => server.answer(&authenticated, out),
                        Some(_) => server.answer(&wrong, out),
                        None => server.challenge("bmFtZQ==", out),
                    }
                }
                Event::AuthResponse(response) => {
                    seen.push(format!("response {}", String::from_utf8_lossy(response)));
                    match response {
                        b"right" => server.answer(&authenticated, out),
                        b"more" => server.challenge("", out),
                        _ => server.answer(&wrong, out),
                    }
                }
                Event::Vrfy(text) => {
                    seen.push(format!("vrfy {text}"));
                    server.answer(&ok, out);
                }
                Event::BeginContent { .. } => {
                    content.clear();
                    server.answer(&ok, out);
                }
                Event::Content(piece) => content.extend_from_slice(piece),
                Event::ContentEnd(end) => {
                    assert_eq!(end.bytes, content.len() as u64);
                    seen.push(format!(
                        "content {:?} dot={} eight={}",
                        String::from_utf8_lossy(&content),
                        end.leading_dot,
                        end.eight_bit
                    ));
                    match config.dialect {
                        Dialect::Smtp => server.answer(&ok, out),
                        Dialect::Lmtp => {
                            let replies = vec![ok.clone(); server.recipient_count()];
                            server.answer_each(&replies, out);
                        }
                    }
                }
                Event::ContentRefused => seen.push("refused".into()),
                Event::Reset => seen.push("reset".into()),
                Event::StartTls => {
                    assert_eq!(at, kept.len(), "nothing is left of what stood behind it");
                    seen.push("starttls".into());
                    break 'pieces;
                }
                Event::Quit => {
                    seen.push("quit".into());
                    break 'pieces;
                }
                Event::Close => {
                    seen.push("close".into());
                    break 'pieces;
                }
            }
        }
        kept.drain(..at);
        assert!(kept.len() <= COMMAND_LINE_BYTES_MAX, "what is kept is bounded");
    }
}

fn check_every_cut(config: &ServerConfig, input: &[u8]) -> (Vec<u8>, Vec<String>) {
    let whole = run(config, &[input]);
    for cut in 0..=input.len() {
        let parts = run(config, &[&input[..cut], &input[cut..]]);
        assert_eq!(parts, whole, "cut at {cut}");
    }
    let octets: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(run(config, &octets), whole, "octet by octet");
    whole
}

/// Both halves of a transcript, cut at every octet.
fn check_transcript(transcript: &Transcript) -> (Vec<u8>, Vec<String>) {
    let Transcript { config, channel, wire, input, protected, .. } = transcript;
    let run = |input: &[&[u8]], protected: &[&[u8]]| {
        let mut server = Server::new(Rc::new(config.clone()), *channel);
        if let Some(wire) = *wire {
            server = server.requiring_login(wire);
        }
        let (mut out, mut seen) = (Vec::new(), Vec::new());
        drive(&mut server, config, input, &mut out, &mut seen);
        if seen.last().is_some_and(|event| event == "starttls") {
            server.on_tls();
            drive(&mut server, config, protected, &mut out, &mut seen);
        }
        (out, seen)
    };
    let whole = run(&[input], &[protected]);
    for cut in 0..=input.len() {
        assert_eq!(run(&[&input[..cut], &input[cut..]], &[protected]), whole, "cut at {cut}");
    }
    for cut in 0..=protected.len() {
        let parts = run(&[input], &[&protected[..cut], &protected[cut..]]);
        assert_eq!(parts, whole, "cut under TLS at {cut}");
    }
    let input: Vec<&[u8]> = input.chunks(1).collect();
    let protected: Vec<&[u8]> = protected.chunks(1).collect();
    assert_eq!(run(&input, &protected), whole, "octet by octet");
    whole
}

#[test]
fn transcripts_answer_the_same_however_they_are_cut() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/smtp");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).expect("transcripts") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a transcript");
        let (output, seen) = check_transcript(&read_transcript(&text));
        let name = path.display();
        let transcript = read_transcript(&text);
        let expected = String::from_utf8_lossy(&transcript.output).into_owned();
        assert_eq!(String::from_utf8_lossy(&output), expected, "{name}");
        assert_eq!(seen, transcript.seen, "{name}");
        count += 1;
    }
    println!("{count} transcripts");
    assert!(count >= 16);
}

#[test]
fn nothing_but_crlf_dot_crlf_ends_data() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../shared/testdata/smtp-end-of-data/vectors.dev.json"
    );
    let Ok(text) = std::fs::read_to_string(path) else {
        println!("end-of-data vectors are absent");
        return;
    };
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let vectors = json["vectors_hex"].as_object().expect("vectors");
    for (name, hex) in vectors {
        let hex = hex.as_str().expect("hex");
        let octets: Vec<u8> = (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex"))
            .collect();
        for bare_newline in [BareNewline::Refuse, BareNewline::Normalise] {
            let mut config = read_transcript("").config;
            config.bare_newline = bare_newline;
            let mut input = b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nx".to_vec();
            input.extend_from_slice(&octets);
            input.extend_from_slice(b"MAIL FROM:<smuggled@b>\r\n.\r\nQUIT\r\n");
            let (_, seen) = check_every_cut(&config, &input);
            let mails = seen.iter().filter(|event| event.starts_with("mail ")).count();
            assert_eq!(mails, 1, "{name} {bare_newline:?}: {seen:?}");
            assert_eq!(seen.last().map(String::as_str), Some("quit"), "{name}: {seen:?}");
        }
    }
    println!("{} end-of-data vectors, each in two modes", vectors.len());
}

#[test]
fn a_line_without_end_is_passed_over_in_bounded_memory() {
    let config = read_transcript("").config;
    let mut input = vec![b'x'; 5 * COMMAND_LINE_BYTES_MAX];
    input.extend_from_slice(b"\r\nNOOP\r\n");
    let pieces: Vec<&[u8]> = input.chunks(1000).collect();
    let (out, _) = run(&config, &pieces);
    let expected = "500 5.5.2 Line too long\r\n250 2.0.0 Ok\r\n";
    assert_eq!(String::from_utf8_lossy(&out), expected);
}
