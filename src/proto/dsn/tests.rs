use super::*;
use crate::mail::status;

struct Case<'a> {
    recipients: &'a [(Outcome, &'a Reply)],
    content: &'a [u8],
    flags: u16,
    reader: Reader,
}

fn compose_case(case: &Case<'_>) -> (String, EnvelopeFlags) {
    let recipients: Vec<ReportedRecipient<'_>> = case
        .recipients
        .iter()
        .map(|(outcome, reply)| ReportedRecipient {
            address: if case.flags & EnvelopeFlags::SMTPUTF8 == 0 {
                "c@d.test"
            } else {
                "ü@d.test"
            },
            original_recipient: Some("rfc822;x+2By@d.test"),
            outcome: *outcome,
            reply,
        })
        .collect();
    let mut out = Vec::new();
    let report = Report {
        reporting_mta: "mx.test",
        queue_id: QueueId { node: 0, shard: 0, message: 5 },
        reader: case.reader,
        address: "a@b.test",
        envelope_id: Some("QQ+201"),
        arrival_ms: 0,
        now_ms: 1_000,
        retry_until_ms: 86_400_000,
        remote_mta: Some(RemoteMta { host: Some("mx.d.test"), address: [192, 0, 2, 1].into() }),
        recipients: &recipients,
        header_prefix: b"Received: us\r\n",
        content: case.content,
        content_is_whole: true,
        flags: EnvelopeFlags(case.flags),
    };
    let flags = compose(&report, &mut out);
    let text = String::from_utf8(out).expect("UTF-8");
    assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "CRLF only");
    assert!(text.lines().all(|line| line.len() <= 998));
    (text, flags)
}

fn report(content: &[u8], flags: u16) -> (String, EnvelopeFlags) {
    let status = Some(status::BAD_CONNECTION);
    let reply = Reply::remote(450, status, "first\nsecond".into());
    let recipients = &[(Outcome::Failed, &reply)];
    compose_case(&Case { recipients, content, flags, reader: Reader::Sender })
}

fn check_lines(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|it| it == *line), "{line} in\n{text}");
    }
}

#[test]
fn a_report_names_what_failed_and_returns_the_message() {
    let (text, flags) = report(b"Subject: x\r\n\r\nbody\r\n", 0);
    check_lines(
        &text,
        &[
            "To: <a@b.test>",
            "Subject: Undelivered mail returned to sender",
            "Auto-Submitted: auto-replied",
            "Reporting-MTA: dns;mx.test",
            "Original-Envelope-Id: QQ 1",
            "Arrival-Date: Thu, 1 Jan 1970 00:00:00 +0000",
            "Original-Recipient: rfc822;x+y@d.test",
            "Final-Recipient: rfc822;c@d.test",
            "Action: failed",
            "Status: 5.4.2",
            "Remote-MTA: dns;mx.d.test",
            "Diagnostic-Code: smtp;450 4.4.2 first second",
            "Last-Attempt-Date: Thu, 1 Jan 1970 00:00:01 +0000",
            "Final-Log-ID: 0.0.5",
            "Content-Type: message/rfc822",
            "Received: us",
            "body",
        ],
    );
    assert!(!text.contains("Will-Retry-Until"));
    assert!(flags.has(EnvelopeFlags::NO_LEADING_DOT));
    assert!(!report(b"x: y\r\n\r\n.dot\r\n", 0).1.has(EnvelopeFlags::NO_LEADING_DOT));
}

#[test]
fn only_the_header_section_returns_when_asked_or_too_large() {
    let (text, _) = report(b"Subject: x\r\n\r\nbody\r\n", EnvelopeFlags::RETURN_HEADERS);
    assert!(text.contains("Content-Type: text/rfc822-headers"));
    assert!(text.contains("Subject: x\r\n"));
    assert!(!text.contains("body"));
    let large = [b"Subject: x\r\n\r\n".as_slice(), &b"line\r\n".repeat(20_000)].concat();
    assert!(report(&large, 0).0.len() < 3_000);
    let endless = b"Folded: line\r\n".repeat(20_000);
    assert!(report(&endless, 0).0.len() < RETURNED_BYTES_MAX + 3_000);
}

#[test]
fn each_action_has_its_subject_words_and_fields() {
    let ours = Reply::new(421, status::NO_ANSWER, "Cannot connect");
    let taken = Reply::remote(250, None, "taken".into());
    let content = b"Subject: x\r\n\r\nbody\r\n";
    let check = |recipients: &[(Outcome, &Reply)], lines: &[&str]| {
        let case = Case { recipients, content, flags: 0, reader: Reader::Sender };
        let (text, _) = compose_case(&case);
        check_lines(&text, lines);
        text
    };
    let text = check(
        &[(Outcome::Delayed, &ours)],
        &[
            "Subject: Delayed mail, still being tried",
            "It will be tried until Fri, 2 Jan 1970 00:00:00 +0000.",
            "Action: delayed",
            "Status: 4.4.1",
            "Diagnostic-Code: x-ringpost;421 4.4.1 Cannot connect",
            "Will-Retry-Until: Fri, 2 Jan 1970 00:00:00 +0000",
            "Content-Type: text/rfc822-headers",
        ],
    );
    assert!(!text.contains("Remote-MTA") && !text.contains("\r\nbody"), "{text}");
    let success = [(Outcome::Relayed, &taken), (Outcome::Delivered, &taken)];
    check(
        &success,
        &[
            "Subject: Mail delivered or relayed",
            "Your message was delivered to the following recipients.",
            "That system may not tell you when it is delivered.",
            "Action: relayed",
            "Action: delivered",
            "Status: 2.0.0",
            "Remote-MTA: dns;mx.d.test",
            "Content-Type: text/rfc822-headers",
        ],
    );
    check(
        &[success[0], (Outcome::Failed, &ours), (Outcome::Delayed, &ours)],
        &[
            "Subject: Undelivered mail returned to sender",
            "Action: failed",
            "Action: delayed",
            "Action: relayed",
            "Content-Type: message/rfc822",
        ],
    );
}

#[test]
fn the_postmaster_is_told_of_a_report_that_failed() {
    let reply = Reply::remote(550, Some(status::BAD_MAILBOX), "no".into());
    let recipients = &[(Outcome::Failed, &reply)];
    let content = b"Subject: Undelivered\r\n\r\nreport\r\n";
    let case = Case { recipients, content, flags: 0, reader: Reader::Postmaster };
    let (text, _) = compose_case(&case);
    check_lines(&text, &["Subject: Undelivered report of this mail system", "report"]);
    assert!(!text.contains("Your message"));
}

#[test]
fn an_international_message_has_an_international_report() {
    let (text, flags) = report("Subject: ü\r\n\r\n".as_bytes(), EnvelopeFlags::SMTPUTF8);
    assert!(flags.has(EnvelopeFlags::SMTPUTF8) && flags.has(EnvelopeFlags::EIGHT_BIT_CONTENT));
    check_lines(
        &text,
        &[
            "Content-Type: message/global-delivery-status",
            "Final-Recipient: utf-8;ü@d.test",
            "Content-Type: message/global",
        ],
    );
    let flags = EnvelopeFlags::SMTPUTF8 | EnvelopeFlags::RETURN_HEADERS;
    assert!(report(b"x: y\r\n\r\n", flags).0.contains("Content-Type: message/global-headers\r\n"));
}

#[test]
fn foreign_words_stay_ascii_in_a_report_that_is() {
    let reply = Reply::remote(550, None, "kein Postfach für ü".into());
    let recipients = &[(Outcome::Failed, &reply)];
    let case = Case { recipients, content: b"x: y\r\n", flags: 0, reader: Reader::Sender };
    let (text, _) = compose_case(&case);
    check_lines(
        &text,
        &[
            "    550 kein Postfach für ü",
            "Diagnostic-Code: smtp;550 kein Postfach f\\x{FC}r \\x{FC}",
        ],
    );
}

#[test]
fn a_report_in_seven_bits_keeps_its_words_and_returns_the_header_section() {
    let reply = Reply::remote(550, None, "kein Postfach für Sie".into());
    let check = |content: &[u8], parts: &[&str], missing: &[&str]| {
        let recipients = &[(Outcome::Failed, &reply)];
        let case = Case { recipients, content, flags: 0, reader: Reader::Sender };
        let (text, flags) = compose_case(&case);
        assert!(flags.has(EnvelopeFlags::EIGHT_BIT_CONTENT));
        let out = seven_bit(text.as_bytes()).expect("a report");
        let out = String::from_utf8(out).expect("UTF-8");
        assert!(out.is_ascii() && out.lines().all(|line| line.len() <= 998), "{out}");
        for part in parts {
            assert!(out.contains(part), "{part} in\n{out}");
        }
        for part in missing {
            assert!(!out.contains(part), "{part} in\n{out}");
        }
        // Whatever a disk makes of it, it is read without harm.
        for end in 0..text.len() {
            assert!(seven_bit(&text.as_bytes()[..end]).is_none(), "cut at {end}");
        }
    };
    let words = "    550 kein Postfach f=C3=BCr Sie\r\n";
    let status = "Diagnostic-Code: smtp;550 kein Postfach f\\x{FC}r Sie\r\n";
    let quoted = "Content-Transfer-Encoding: quoted-printable\r\n";
    let (whole, headers) =
        ("Content-Type: message/rfc822\r\n", "Content-Type: text/rfc822-headers\r\n");
    check(
        b"Subject: x\r\n\r\nbody\r\n",
        &[words, status, quoted, whole, "\r\nbody\r\n"],
        &[headers],
    );
    let eight_bit = "Subject: x\r\n\r\nbody ü\r\n".as_bytes();
    check(eight_bit, &[words, status, headers, "Subject: x\r\n"], &[whole, "body"]);
    let eight_bit = "Subject: ü\r\n\r\nbody\r\n".as_bytes();
    check(eight_bit, &[words, headers, "Subject: =C3=BC\r\n"], &[whole, "body"]);
    assert_eq!(seven_bit("Subject: ü\r\n\r\nno report\r\n".as_bytes()), None);
}
