//! Dialogues: what the client writes and reports for what the server says, cut at every octet.

use super::*;
use crate::mail::Recipient;
use crate::proto::sasl::digest::reference::HASHES;

/// Plays `server`'s replies to one transaction with `recipients`; returns what was written and
/// reported, in order.
fn play(dialect: Dialect, recipients: &[&str], server: &[u8], cut: usize) -> Vec<String> {
    let mut client = Client::new(dialect, "client.test");
    let mut seen = Vec::new();
    let mut kept = Vec::new();
    for piece in [&server[..cut], &server[cut..]] {
        kept.extend_from_slice(piece);
        loop {
            let mut out = Vec::new();
            let (taken, event) = client.next(&kept, &mut out);
            kept.drain(..taken);
            let note = |seen: &mut Vec<String>, out: &[u8]| {
                for line in String::from_utf8_lossy(out).lines() {
                    seen.push(format!("C: {line}"));
                }
            };
            note(&mut seen, &out);
            match event {
                Event::NeedInput => break,
                Event::Write => assert!(!out.is_empty()),
                Event::Ready if client.capabilities().start_tls => {
                    out.clear();
                    client.start_tls(&mut out);
                    note(&mut seen, &out);
                }
                Event::StartTls => {
                    client.on_tls(&mut out);
                    note(&mut seen, &out);
                }
                Event::TlsRefused(reply) => {
                    seen.push(format!("refused {reply}"));
                    return seen;
                }
                Event::SaltPassword(recipe) => {
                    seen.push(format!("salt {} times", recipe.iterations));
                    out.clear();
                    client.on_salted(&[7; 32], &mut out);
                    note(&mut seen, &out);
                }
                Event::NotAuthenticated(reply) => {
                    seen.push(format!("not authenticated: {reply}"));
                    return seen;
                }
                Event::Ready if client.capabilities().mechanisms != Offer::default() => {
                    let (name, password) = ("user".to_owned(), "secret".to_owned());
                    let credentials =
                        Credentials { authorization_id: String::new(), name, password };
                    out.clear();
                    let said = client.authenticate(&credentials.into(), NONCE, HASHES, &mut out);
                    said.expect("a mechanism is offered");
                    note(&mut seen, &out);
                }
                Event::Ready | Event::Authenticated => {
                    out.clear();
                    let recipients: Vec<Recipient> =
                        recipients.iter().map(|it| Recipient::new(it)).collect();
                    let recipients: Vec<&Recipient> = recipients.iter().collect();
                    let begin = client.begin(&transaction(&recipients), &mut out);
                    note(&mut seen, &out);
                    if begin == Begin::ContentFollows {
                        seen.push("C: (content)".into());
                        client.content_sent();
                    }
                }
                Event::SendContent => {
                    seen.push("C: (content and dot)".into());
                    client.content_sent();
                }
                Event::Done(replies) => {
                    for reply in replies {
                        seen.push(format!("= {reply}"));
                    }
                }
                Event::Closed(reply) => {
                    seen.push(format!("closed {reply}"));
                    for lost in client.lost() {
                        seen.push(format!("in doubt: {}", lost.in_doubt));
                        for reply in lost.replies {
                            seen.push(format!("= {:?}", reply.map(|reply| reply.to_string())));
                        }
                    }
                    return seen;
                }
            }
        }
    }
    seen
}

fn check(dialect: Dialect, recipients: &[&str], server: &str, expected: &[&str]) {
    let server = server.replace('\n', "\r\n");
    for cut in 0..=server.len() {
        let seen = play(dialect, recipients, server.as_bytes(), cut);
        assert_eq!(seen, expected, "cut at {cut}");
    }
}

#[test]
fn a_chunking_server_gets_all_in_one_write() {
    check(
        Dialect::Smtp,
        &["one@c.test", "two@c.test"],
        "220 mx\n250-mx\n250-PIPELINING\n250-SIZE 99\n250 CHUNKING\n\
         250 2.1.0 ok\n550 5.1.1 no\n250 2.1.5 ok\n250 2.0.0 queued\n",
        &[
            "C: EHLO client.test",
            "C: MAIL FROM:<a@b.test> SIZE=10",
            "C: RCPT TO:<one@c.test>",
            "C: RCPT TO:<two@c.test>",
            "C: BDAT 10 LAST",
            "C: (content)",
            "= 550 5.1.1 no",
            "= 250 2.0.0 queued",
        ],
    );
}

#[test]
fn an_old_server_gets_one_command_at_a_time() {
    check(
        Dialect::Smtp,
        &["one@c.test", "two@c.test"],
        "220 mx\n500 what\n250 mx\n250 ok\n450 later\n250 ok\n354 go\n250 taken\n",
        &[
            "C: EHLO client.test",
            "C: HELO client.test",
            "C: MAIL FROM:<a@b.test>",
            "C: RCPT TO:<one@c.test>",
            "C: RCPT TO:<two@c.test>",
            "C: DATA",
            "C: (content and dot)",
            "= 450 later",
            "= 250 taken",
        ],
    );
    check(
        Dialect::Smtp,
        &["one@c.test"],
        "220 mx\n250 mx\n553 no mail from you\n",
        &["C: EHLO client.test", "C: MAIL FROM:<a@b.test>", "= 553 no mail from you"],
    );
}

#[test]
fn a_go_ahead_without_recipients_gets_a_lone_dot() {
    check(
        Dialect::Smtp,
        &["one@c.test"],
        "220 mx\n250-mx\n250 PIPELINING\n250 ok\n550 no\n354 go\n250 whatever\n",
        &[
            "C: EHLO client.test",
            "C: MAIL FROM:<a@b.test>",
            "C: RCPT TO:<one@c.test>",
            "C: DATA",
            "C: .",
            "= 550 no",
        ],
    );
}

#[test]
fn lmtp_answers_for_each_accepted_recipient() {
    check(
        Dialect::Lmtp,
        &["one@c.test", "two@c.test", "three@c.test"],
        "220 mx\n250-mx\n250 PIPELINING\n250 ok\n250 ok\n550 no\n250 ok\n354 go\n\
         250 one\n452 4.2.2 full\n",
        &[
            "C: LHLO client.test",
            "C: MAIL FROM:<a@b.test>",
            "C: RCPT TO:<one@c.test>",
            "C: RCPT TO:<two@c.test>",
            "C: RCPT TO:<three@c.test>",
            "C: DATA",
            "C: (content and dot)",
            "= 250 one",
            "= 550 no",
            "= 452 4.2.2 full",
        ],
    );
}

#[test]
fn a_close_leaves_in_doubt_only_what_was_sent_whole() {
    check(
        Dialect::Smtp,
        &["one@c.test"],
        "220 mx\n250-mx\n250 PIPELINING\n250 ok\n421 4.3.2 bye\n",
        &[
            "C: EHLO client.test",
            "C: MAIL FROM:<a@b.test>",
            "C: RCPT TO:<one@c.test>",
            "C: DATA",
            "closed 421 4.3.2 bye",
            "in doubt: false",
            "= None",
        ],
    );
    check(
        Dialect::Smtp,
        &["one@c.test"],
        "220 mx\n250-mx\n250 PIPELINING\n250 ok\n250 ok\n354 go\nnonsense\n",
        &[
            "C: EHLO client.test",
            "C: MAIL FROM:<a@b.test>",
            "C: RCPT TO:<one@c.test>",
            "C: DATA",
            "C: (content and dot)",
            "closed 451 4.5.0 The server's reply makes no sense",
            "in doubt: true",
            "= None",
        ],
    );
    check(Dialect::Smtp, &["a@b.test"], "554 go away\n", &["closed 554 go away"]);
}

#[test]
fn several_messages_share_a_round_trip_and_end_each_in_its_own_way() {
    let server: &[u8] = b"250 ok\r\n250 ok\r\n250 one\r\n\
        250 reset\r\n250 ok\r\n550 no\r\n554 none\r\n\
        250 reset\r\n250 ok\r\n250 ok\r\n";
    for cut in 0..=server.len() {
        let mut client = Client::new(Dialect::Smtp, "client.test");
        let mut out = Vec::new();
        let hello = b"220 mx\r\n250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n";
        let (first, event) = client.next(hello, &mut out);
        assert_eq!(event, Event::Write);
        assert_eq!(client.next(&hello[first..], &mut out).1, Event::Ready);
        assert!(client.pipelines());
        out.clear();
        for address in ["one@c.test", "two@c.test", "three@c.test"] {
            let begin = client.begin(&transaction(&[&Recipient::new(address)]), &mut out);
            assert_eq!(begin, Begin::ContentFollows);
            client.content_sent();
        }
        let written = String::from_utf8(out.clone()).expect("ASCII");
        assert_eq!(written.matches("RSET").count(), 2, "between two of them");
        let mut done = Vec::new();
        let mut kept = Vec::new();
        for piece in [&server[..cut], &server[cut..]] {
            kept.extend_from_slice(piece);
            loop {
                let (taken, event) = client.next(&kept, &mut out);
                kept.drain(..taken);
                match event {
                    Event::Done(replies) => done.push(replies[0].to_string()),
                    Event::NeedInput => break,
                    event => panic!("{event:?}"),
                }
            }
        }
        assert_eq!(done, ["250 one", "550 no"], "cut at {cut}");
        let lost = client.lost();
        assert_eq!(lost, [Lost { replies: vec![None], in_doubt: true, untried: false }]);
    }
}

fn transaction<'a>(recipients: &'a [&'a Recipient]) -> Transaction<'a> {
    let flags = EnvelopeFlags::default();
    let reverse_path = "a@b.test";
    let tls = TlsTag::None;
    Transaction { reverse_path, recipients, flags, tls, envelope_id: None, message_bytes: 10 }
}

#[test]
fn what_the_client_wants_to_hear_of_is_passed_on_where_dsn_is_offered() {
    let written = |hello: &[u8]| {
        let mut client = Client::new(Dialect::Smtp, "client.test");
        let mut out = Vec::new();
        let (first, _) = client.next(hello, &mut out);
        assert_eq!(client.next(&hello[first..], &mut out).1, Event::Ready);
        out.clear();
        let recipients = [
            (Notify::DEFAULT, None),
            (Notify(Notify::NEVER), None),
            (Notify(Notify::SUCCESS | Notify::DELAY), Some("rfc822;x+2Bb@d.test".into())),
        ];
        let recipients = recipients.map(|(notify, original_recipient)| Recipient {
            address: "c@d.test".into(),
            original_recipient,
            notify,
        });
        let recipients = recipients.each_ref();
        let transaction = Transaction {
            flags: EnvelopeFlags(EnvelopeFlags::RETURN_HEADERS),
            envelope_id: Some("Q+20Q"),
            ..transaction(&recipients)
        };
        assert_eq!(client.begin(&transaction, &mut out), Begin::Wait);
        String::from_utf8(out).expect("ASCII")
    };
    assert_eq!(
        written(b"220 mx\r\n250-mx\r\n250-PIPELINING\r\n250 dsn\r\n"),
        "MAIL FROM:<a@b.test> RET=HDRS ENVID=Q+20Q\r\nRCPT TO:<c@d.test>\r\n\
         RCPT TO:<c@d.test> NOTIFY=NEVER\r\n\
         RCPT TO:<c@d.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x+2Bb@d.test\r\nDATA\r\n"
    );
    let plain = "RCPT TO:<c@d.test>\r\n".repeat(3);
    assert_eq!(
        written(b"220 mx\r\n250-mx\r\n250 PIPELINING\r\n"),
        format!("MAIL FROM:<a@b.test>\r\n{plain}DATA\r\n")
    );
}

#[test]
fn what_a_421_left_unanswered_is_not_in_doubt() {
    let mut client = Client::new(Dialect::Smtp, "client.test");
    let mut out = Vec::new();
    let hello = b"220 mx\r\n250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n";
    let (first, _) = client.next(hello, &mut out);
    assert_eq!(client.next(&hello[first..], &mut out).1, Event::Ready);
    for address in ["one@c.test", "two@c.test", "three@c.test"] {
        client.begin(&transaction(&[&Recipient::new(address)]), &mut out);
        client.content_sent();
    }
    // The first is answered in full, the second in part, the third not at all.
    let server = b"250 mail\r\n250 rcpt\r\n250 one\r\n250 reset\r\n250 mail\r\n421 closing\r\n";
    let (taken, event) = client.next(server, &mut out);
    assert!(matches!(event, Event::Done(_)));
    let (_, event) = client.next(&server[taken..], &mut out);
    assert!(matches!(event, Event::Closed(reply) if reply.code == 421));
    let lost = client.lost().into_iter().map(|lost| (lost.in_doubt, lost.untried));
    assert_eq!(lost.collect::<Vec<_>>(), [(false, false), (false, true)]);
}

#[test]
fn a_server_that_talks_out_of_turn_has_ended_the_session() {
    for (early, code) in [(&b"250 more\r\n"[..], 451), (b"421 bye\r\n", 421), (b"25", 451)] {
        let mut client = Client::new(Dialect::Smtp, "client.test");
        let mut out = Vec::new();
        assert_eq!(client.next(b"220 mx\r\n", &mut out).1, Event::Write);
        assert!(matches!(client.talked_early(early), Event::Closed(reply) if reply.code == code));
        assert!(matches!(client.next(b"250 mx\r\n", &mut out).1, Event::Closed(_)));
    }
}

#[test]
fn a_server_is_greeted_anew_under_tls() {
    let offered = "220 mx\n250-mx\n250-PIPELINING\n250-CHUNKING\n250 STARTTLS\n";
    // What it said without protection counts no more.
    check(
        Dialect::Smtp,
        &["one@c.test"],
        &format!("{offered}220 go\n250-mx\n250 SIZE 99\n250 ok\n"),
        &[
            "C: EHLO client.test",
            "C: STARTTLS",
            "C: EHLO client.test",
            "C: MAIL FROM:<a@b.test> SIZE=10",
            "C: RCPT TO:<one@c.test>",
        ],
    );
    for refusal in ["454 4.7.0 not now", "554 5.7.3 never"] {
        let refused = format!("refused {refusal}");
        let seen = ["C: EHLO client.test", "C: STARTTLS", &refused];
        check(Dialect::Smtp, &["one@c.test"], &format!("{offered}{refusal}\n"), &seen);
    }
    for nonsense in ["250 ok", "354 go"] {
        let closed = format!("closed {nonsense}");
        let seen = ["C: EHLO client.test", "C: STARTTLS", &closed];
        check(Dialect::Smtp, &["one@c.test"], &format!("{offered}{nonsense}\n"), &seen);
    }
}

#[test]
fn a_reply_behind_the_220_to_starttls_is_from_somebody_else() {
    let mut client = Client::new(Dialect::Smtp, "client.test");
    let mut out = Vec::new();
    let mut next = |input: &str, client: &mut Client| client.next(input.as_bytes(), &mut out);
    assert_eq!(next("220 mx\r\n", &mut client), (8, Event::Write));
    assert_eq!(next("250-mx\r\n250 STARTTLS\r\n", &mut client), (22, Event::Ready));
    client.start_tls(&mut Vec::new());
    let input = "220 go\r\n250 injected\r\n";
    assert_eq!(next(input, &mut client), (8, Event::StartTls), "the rest is left");
    assert_eq!(client.talked_early(&input.as_bytes()[8..]), Event::Closed(GARBAGE));
}

const NONCE: &str = "0123456789abcdefghijklmn";

/// What is said and reported from AUTH on, to a server that offers `mechanisms`.
fn check_auth(mechanisms: &str, server: &str, expected: &[&str]) {
    let server = format!("220 mx\n250-mx\n250 {mechanisms}\n{server}");
    let expected = [&["C: EHLO client.test"], expected].concat();
    check(Dialect::Smtp, &["one@c.test"], &server, &expected);
}

const MESSAGE: &[&str] = &["C: MAIL FROM:<a@b.test>", "C: RCPT TO:<one@c.test>", "C: DATA"];

#[test]
fn who_we_are_is_said_before_the_first_message() {
    let message = "250 ok\n250 ok\n354 go\n250 taken\n";
    let taken = [MESSAGE, &["C: (content and dot)", "= 250 taken"]].concat();
    let plain = ["C: AUTH PLAIN AHVzZXIAc2VjcmV0"];
    let told = [&plain[..], &taken].concat();
    check_auth("AUTH LOGIN PLAIN", &format!("235 2.7.0 ok\n{message}"), &told);
    check_auth("AUTH=PLAIN LOGIN", &format!("235 2.7.0 ok\n{message}"), &told);
    let login = ["C: AUTH LOGIN", "C: dXNlcg==", "C: c2VjcmV0"];
    let server = format!("334 VXNlcm5hbWU6\n334 UGFzc3dvcmQ6\n235 2.7.0 ok\n{message}");
    check_auth("AUTH LOGIN XOAUTH2", &server, &[&login[..], &taken].concat());
}

/// What SCRAM says with our nonce, and the reply that asks for the proof.
const SCRAM_FIRST: &str = "C: AUTH SCRAM-SHA-256 biwsbj11c2VyLHI9MDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1u";

/// The challenge for the first message, what we answer, and what a server that knows the password
/// says to that, in base64.
fn scram() -> (String, String, String) {
    let encode = |text: &str| {
        let mut encoded = String::new();
        base64::encode(text.as_bytes(), &mut encoded);
        encoded
    };
    let challenge = format!("r={NONCE}xyz,s=c2FsdA==,i=4096");
    let without_proof = format!("c=biws,r={NONCE}xyz");
    let signed = format!("n=user,r={NONCE},{challenge},{without_proof}");
    let hmac = HASHES.hmac_sha256;
    let client_key = hmac(&[7; 32], b"Client Key");
    let mut proof = hmac(&(HASHES.sha256)(&client_key), signed.as_bytes());
    proof.iter_mut().zip(client_key).for_each(|(octet, key)| *octet ^= key);
    let (mut answer, mut last) = (format!("{without_proof},p="), "v=".to_owned());
    base64::encode(&proof, &mut answer);
    base64::encode(&hmac(&hmac(&[7; 32], b"Server Key"), signed.as_bytes()), &mut last);
    (encode(&challenge), format!("C: {}", encode(&answer)), encode(&last))
}

#[test]
fn scram_goes_both_ways() {
    let (challenge, answer, last) = scram();
    let said = [SCRAM_FIRST, "salt 4096 times", &answer];
    let offered = "AUTH PLAIN SCRAM-SHA-256";
    let message = "250 ok\n250 ok\n354 go\n250 taken\n";
    let server = format!("334 {challenge}\n334 {last}\n235 ok\n{message}");
    let taken = [MESSAGE, &["C: (content and dot)", "= 250 taken"]].concat();
    check_auth(offered, &server, &[&said[..], &["C: "], &taken].concat());
    let unproven = "not authenticated: 535 5.7.8 The server does not keep to the mechanism, \
                    or does not know the password itself";
    let told = [&said[..], &[unproven]].concat();
    check_auth(offered, &format!("334 {challenge}\n235 ok\n"), &told);
    check_auth(offered, &format!("334 {challenge}\n334 dj1BQUFB\n"), &told);
    let refused = [&said[..], &["not authenticated: 535 5.7.8 no"]].concat();
    check_auth(offered, &format!("334 {challenge}\n535 5.7.8 no\n"), &refused);
    check_auth(offered, "235 ok\n", &[SCRAM_FIRST, unproven]);
    check_auth(offered, "334 not base64\n", &[SCRAM_FIRST, unproven]);
}

#[test]
fn a_refused_name_is_told_and_an_end_ends_the_session() {
    let plain = "C: AUTH PLAIN AHVzZXIAc2VjcmV0";
    for reply in ["535 5.7.8 wrong", "534 5.7.9 too weak", "454 4.7.0 later", "500 5.5.1 what"] {
        let told = format!("not authenticated: {reply}");
        check_auth("AUTH PLAIN", &format!("{reply}\n"), &[plain, &told]);
    }
    check_auth("AUTH PLAIN", "421 4.3.2 bye\n", &[plain, "closed 421 4.3.2 bye"]);
    let unproven = "not authenticated: 535 5.7.8 The server does not keep to the mechanism, \
                    or does not know the password itself";
    check_auth("AUTH PLAIN", "334 \n", &[plain, unproven]);
    let mut client = Client::new(Dialect::Smtp, "client.test");
    let mut out = Vec::new();
    client.next(b"220 mx\r\n", &mut out);
    let ready = client.next(b"250-mx\r\n250 AUTH XOAUTH2\r\n", &mut out).1;
    assert_eq!(ready, Event::Ready);
    out.clear();
    let (name, password) = ("user".to_owned(), "secret".to_owned());
    let credentials = Credentials { authorization_id: String::new(), name, password };
    let said = client.authenticate(&credentials.into(), NONCE, HASHES, &mut out);
    assert!(said.is_err_and(|reply| reply.code == 504) && out.is_empty());
}

#[test]
fn requiretls_is_asked_for_where_it_is_offered_under_tls() {
    let begun = |under_tls: bool, offer: &str, tls: TlsTag| {
        let mut client = Client::new(Dialect::Smtp, "client.test");
        let mut out = Vec::new();
        let hello = format!("220 mx\r\n250-mx\r\n250-STARTTLS\r\n250 {offer}\r\n");
        let (first, _) = client.next(hello.as_bytes(), &mut out);
        assert_eq!(client.next(&hello.as_bytes()[first..], &mut out).1, Event::Ready);
        if under_tls {
            client.start_tls(&mut out);
            assert_eq!(client.next(b"220 go\r\n", &mut out).1, Event::StartTls);
            client.on_tls(&mut out);
            let hello = format!("250-mx\r\n250 {offer}\r\n");
            assert_eq!(client.next(hello.as_bytes(), &mut out).1, Event::Ready);
        }
        out.clear();
        let recipient = Recipient::new("c@d.test");
        let recipients = [&recipient];
        let transaction = Transaction { tls, ..transaction(&recipients) };
        match client.begin(&transaction, &mut out) {
            Begin::Refused(reply) => reply.to_string(),
            _ => String::from_utf8(out).expect("ASCII"),
        }
    };
    let (asks, plain) = ("MAIL FROM:<a@b.test> REQUIRETLS\r\n", "MAIL FROM:<a@b.test>\r\n");
    let refused = "550 5.7.30 The next hop does not offer REQUIRETLS";
    assert_eq!(begun(true, "requiretls", TlsTag::Required), asks);
    assert_eq!(begun(true, "requiretls", TlsTag::RequiredWhereOffered), asks);
    assert_eq!(begun(true, "requiretls", TlsTag::Optional), plain);
    assert_eq!(begun(true, "SIZE", TlsTag::Required), refused);
    assert_eq!(begun(true, "HELP", TlsTag::RequiredWhereOffered), plain);
    // An offer in the clear is none.
    assert_eq!(begun(false, "REQUIRETLS", TlsTag::Required), refused);
    assert_eq!(begun(false, "REQUIRETLS", TlsTag::RequiredWhereOffered), plain);
}
