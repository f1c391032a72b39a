//! Delivery status notifications (RFC 3464) in a multipart/report (RFC 6522).

use std::io::Write;

use super::message::date::write_date;
use crate::mail::{EnvelopeFlags, QueueId, Reply};

/// A recipient whose delivery Failed.
pub struct FailedRecipient<'a> {
    pub address: &'a str,
    /// ORCPT as the client gave it, `type;xtext`.
    pub original_recipient: Option<&'a str>,
    /// The reply that decided it.
    pub reply: &'a Reply,
}

/// What a report says.
pub struct Report<'a> {
    pub reporting_mta: &'a str,
    /// Of the message reported on.
    pub queue_id: QueueId,
    /// Who gets the report.
    pub reverse_path: &'a str,
    /// ENVID of the message.
    pub envelope_id: Option<&'a str>,
    /// Unix milliseconds.
    pub arrival_ms: u64,
    pub now_ms: u64,
    pub recipients: &'a [FailedRecipient<'a>],
    /// The beginning of the original: prefix and as much of the content as is at hand.
    pub header_prefix: &'a [u8],
    pub content: &'a [u8],
    /// `content` is all of it.
    pub content_is_whole: bool,
    /// Of the original.
    pub flags: EnvelopeFlags,
}

/// Appends the report as CRLF-canonical content; returns the envelope flags it calls for.
///
/// The original is returned whole where it is at most `RETURNED_BYTES_MAX` and RET=HDRS was not
/// asked for, else its header section.
pub fn compose(report: &Report<'_>, out: &mut Vec<u8>) -> EnvelopeFlags {
    let start = out.len();
    let boundary = format!("{}-report-{}", report.queue_id, report.now_ms);
    write_header_section(report, &boundary, out);
    write_words(report, &boundary, out);
    write_status(report, &boundary, out);
    write_original(report, &boundary, out);
    // Writing into memory does not fail.
    let _ = write!(out, "\r\n--{boundary}--\r\n");
    let mut flags = EnvelopeFlags::default();
    let composed = &out[start..];
    if !composed.is_ascii() {
        flags.set(EnvelopeFlags::EIGHT_BIT_CONTENT | EnvelopeFlags::EIGHT_BIT_MIME);
    }
    if !composed.starts_with(b".") && memchr::memmem::find(composed, b"\r\n.").is_none() {
        flags.set(EnvelopeFlags::NO_LEADING_DOT);
    }
    if report.flags.has(EnvelopeFlags::SMTPUTF8) {
        flags.set(EnvelopeFlags::SMTPUTF8);
    }
    flags
}

fn write_header_section(report: &Report<'_>, boundary: &str, out: &mut Vec<u8>) {
    let Report { reporting_mta, reverse_path, queue_id, now_ms, .. } = report;
    let _ = write!(
        out,
        "From: Mail Delivery System <MAILER-DAEMON@{reporting_mta}>\r\n\
         To: <{reverse_path}>\r\n\
         Subject: Undelivered mail returned to sender\r\n\
         Date: "
    );
    write_date(*now_ms, out);
    let _ = write!(
        out,
        "\r\nMessage-ID: <{queue_id}.{now_ms}@{reporting_mta}>\r\n\
         Auto-Submitted: auto-replied\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status;\r\n\
         \tboundary=\"{boundary}\"\r\n\r\n\
         This is a report in MIME format.\r\n"
    );
}

fn write_words(report: &Report<'_>, boundary: &str, out: &mut Vec<u8>) {
    let _ = write!(
        out,
        "\r\n--{boundary}\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: 8bit\r\n\r\n\
         This is the mail system at {}.\r\n\r\n\
         Your message could not be delivered to the following recipients. It will not\r\n\
         be tried again.\r\n",
        report.reporting_mta
    );
    for recipient in report.recipients {
        let _ = write!(out, "\r\n<{}>\r\n", recipient.address);
        for line in recipient.reply.to_string().split('\n') {
            let _ = write!(out, "    {}\r\n", clip(line));
        }
    }
}

fn write_status(report: &Report<'_>, boundary: &str, out: &mut Vec<u8>) {
    let subtype = if report.flags.has(EnvelopeFlags::SMTPUTF8) {
        // RFC 6533 §3: addresses in UTF-8.
        "global-delivery-status"
    } else {
        "delivery-status"
    };
    let _ = write!(
        out,
        "\r\n--{boundary}\r\nContent-Type: message/{subtype}\r\n\r\nReporting-MTA: dns;{}\r\n",
        report.reporting_mta
    );
    if let Some(envelope_id) = report.envelope_id {
        let _ = write!(out, "Original-Envelope-Id: {envelope_id}\r\n");
    }
    out.extend_from_slice(b"Arrival-Date: ");
    write_date(report.arrival_ms, out);
    out.extend_from_slice(b"\r\n");
    for recipient in report.recipients {
        out.extend_from_slice(b"\r\n");
        if let Some(original) = recipient.original_recipient {
            let _ = write!(out, "Original-Recipient: {original}\r\n");
        }
        let reply = recipient.reply;
        let status = match reply.status {
            // The recipient has Failed, even where the last reply was transient.
            Some(status) => format!("5.{}.{}", status.subject, status.detail),
            None => "5.0.0".to_owned(),
        };
        let kind = if report.flags.has(EnvelopeFlags::SMTPUTF8) { "utf-8" } else { "rfc822" };
        let _ = write!(
            out,
            "Final-Recipient: {kind};{}\r\nAction: failed\r\nStatus: {status}\r\n\
             Diagnostic-Code: smtp;{}\r\nLast-Attempt-Date: ",
            recipient.address,
            clip(&reply.to_string())
        );
        write_date(report.now_ms, out);
        out.extend_from_slice(b"\r\n");
    }
}

fn write_original(report: &Report<'_>, boundary: &str, out: &mut Vec<u8>) {
    let bytes = report.header_prefix.len() + report.content.len();
    let whole = report.content_is_whole
        && bytes <= RETURNED_BYTES_MAX
        && !report.flags.has(EnvelopeFlags::RETURN_HEADERS);
    let content = if whole { report.content } else { header_section(report.content) };
    let content_type = if whole { "message/rfc822" } else { "text/rfc822-headers" };
    let eight_bit = if content.is_ascii() { "" } else { "Content-Transfer-Encoding: 8bit\r\n" };
    let _ = write!(out, "\r\n--{boundary}\r\nContent-Type: {content_type}\r\n{eight_bit}\r\n");
    out.extend_from_slice(report.header_prefix);
    out.extend_from_slice(content);
}

/// Up to and without the empty line, cut at `RETURNED_BYTES_MAX` between two lines.
fn header_section(content: &[u8]) -> &[u8] {
    if content.starts_with(b"\r\n") {
        return &[];
    }
    let end = memchr::memmem::find(content, b"\r\n\r\n").map_or(content.len(), |at| at + 2);
    if end <= RETURNED_BYTES_MAX {
        return &content[..end];
    }
    let cut = memchr::memmem::rfind(&content[..RETURNED_BYTES_MAX], b"\r\n");
    &content[..cut.map_or(0, |at| at + 2)]
}

/// What fits a line of a header field with room for its name (RFC 5322 §2.1.1).
fn clip(text: &str) -> &str {
    let mut end = text.len().min(LINE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Largest original that is returned whole.
const RETURNED_BYTES_MAX: usize = 64 * 1024;
const LINE_BYTES: usize = 900;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::status;

    fn report(content: &[u8], flags: u16) -> (String, EnvelopeFlags) {
        let reply = Reply::with_text(450, status::BAD_CONNECTION, "first\nsecond".into());
        let mut out = Vec::new();
        let flags = compose(
            &Report {
                reporting_mta: "mx.test",
                queue_id: QueueId { node: 0, shard: 0, message: 5 },
                reverse_path: "a@b.test",
                envelope_id: Some("QQ1"),
                arrival_ms: 0,
                now_ms: 1_000,
                recipients: &[FailedRecipient {
                    address: "c@d.test",
                    original_recipient: Some("rfc822;x@d.test"),
                    reply: &reply,
                }],
                header_prefix: b"Received: us\r\n",
                content,
                content_is_whole: true,
                flags: EnvelopeFlags(flags),
            },
            &mut out,
        );
        (String::from_utf8(out).expect("ASCII"), flags)
    }

    #[test]
    fn a_report_names_what_failed_and_returns_the_message() {
        let (text, flags) = report(b"Subject: x\r\n\r\nbody\r\n", 0);
        for line in [
            "To: <a@b.test>",
            "Auto-Submitted: auto-replied",
            "Reporting-MTA: dns;mx.test",
            "Original-Envelope-Id: QQ1",
            "Arrival-Date: Thu, 1 Jan 1970 00:00:00 +0000",
            "Original-Recipient: rfc822;x@d.test",
            "Final-Recipient: rfc822;c@d.test",
            "Action: failed",
            "Status: 5.4.2",
            "Diagnostic-Code: smtp;450 4.4.2 first second",
            "Content-Type: message/rfc822",
            "Received: us",
            "body",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
        }
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "CRLF only");
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
}
