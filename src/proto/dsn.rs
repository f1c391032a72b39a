//! Delivery status notifications (RFC 3464, RFC 6533) in a multipart/report (RFC 6522).

mod seven_bit;

use std::borrow::Cow;
use std::io::Write;
use std::net::IpAddr;

use super::message::date::write_date;
use super::xtext;
use crate::mail::{EnvelopeFlags, Outcome, QueueId, Reply};

pub use seven_bit::seven_bit;

/// A recipient who is reported on.
pub struct ReportedRecipient<'a> {
    pub address: &'a str,
    /// ORCPT as the client gave it, `type;xtext`.
    pub original_recipient: Option<&'a str>,
    /// The action. For a Delayed recipient the report says until when it is tried.
    pub outcome: Outcome,
    /// The reply that decided it.
    pub reply: &'a Reply,
}

/// Who reads a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Whoever sent the message.
    Sender,
    /// The postmaster, about a report of ours that Failed.
    Postmaster,
}

/// Whom the attempt spoke to.
#[derive(Clone, Copy, Debug)]
pub struct RemoteMta<'a> {
    /// The name by which it was found (RFC 3464 §2.3.5).
    pub host: Option<&'a str>,
    pub address: IpAddr,
}

/// What a report says.
pub struct Report<'a> {
    pub reporting_mta: &'a str,
    /// Of the message reported on.
    pub queue_id: QueueId,
    pub reader: Reader,
    /// Where the report goes.
    pub address: &'a str,
    /// ENVID of the message, in xtext.
    pub envelope_id: Option<&'a str>,
    /// Unix milliseconds.
    pub arrival_ms: u64,
    pub now_ms: u64,
    /// End of the lifetime of Delayed recipients, Unix milliseconds.
    pub retry_until_ms: u64,
    /// The server that gave the replies that are not ours.
    pub remote_mta: Option<RemoteMta<'a>>,
    /// Not empty.
    pub recipients: &'a [ReportedRecipient<'a>],
    /// The beginning of the original: prefix and as much of the content as is at hand.
    pub header_prefix: &'a [u8],
    pub content: &'a [u8],
    /// `content` is all of it.
    pub content_is_whole: bool,
    /// Of the original.
    pub flags: EnvelopeFlags,
}

impl Report<'_> {
    fn reports(&self, outcome: Outcome) -> bool {
        self.recipients.iter().any(|recipient| recipient.outcome == outcome)
    }

    /// Whether addresses may stand in the report in UTF-8 (RFC 6533 §3).
    fn is_international(&self) -> bool {
        self.flags.has(EnvelopeFlags::SMTPUTF8)
    }
}

/// Appends the report as CRLF-canonical content; returns the envelope flags it calls for.
///
/// The original is returned whole where some recipient Failed, it is at most `RETURNED_BYTES_MAX`
/// and RET=HDRS was not asked for; else its header section (RFC 3461 §4.3).
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
    if report.is_international() {
        flags.set(EnvelopeFlags::SMTPUTF8);
    }
    flags
}

fn write_header_section(report: &Report<'_>, boundary: &str, out: &mut Vec<u8>) {
    let Report { reporting_mta, address, queue_id, now_ms, .. } = report;
    let subject = match report.reader {
        Reader::Postmaster => "Undelivered report of this mail system",
        Reader::Sender if report.reports(Outcome::Failed) => "Undelivered mail returned to sender",
        Reader::Sender if report.reports(Outcome::Delayed) => "Delayed mail, still being tried",
        Reader::Sender => "Mail delivered or relayed",
    };
    let _ = write!(
        out,
        "From: Mail Delivery System <MAILER-DAEMON@{reporting_mta}>\r\n\
         To: <{address}>\r\n\
         Subject: {subject}\r\n\
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

/// The part for people: a paragraph for each action, and below it the recipients it befell.
fn write_words(report: &Report<'_>, boundary: &str, out: &mut Vec<u8>) {
    let _ = write!(
        out,
        "\r\n--{boundary}\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: 8bit\r\n\r\n\
         This is the mail system at {}.\r\n",
        report.reporting_mta
    );
    for outcome in [Outcome::Failed, Outcome::Delayed, Outcome::Delivered, Outcome::Relayed] {
        if !report.reports(outcome) {
            continue;
        }
        write_paragraph(report, outcome, out);
        for recipient in report.recipients.iter().filter(|it| it.outcome == outcome) {
            let _ = write!(out, "\r\n<{}>\r\n", recipient.address);
            for line in recipient.reply.to_string().split('\n') {
                let _ = write!(out, "    {}\r\n", clip(line));
            }
        }
    }
}

fn write_paragraph(report: &Report<'_>, outcome: Outcome, out: &mut Vec<u8>) {
    let words = match (report.reader, outcome) {
        (Reader::Postmaster, _) => {
            "A report that this system made could not be delivered to whoever sent the\r\n\
             message it is about. It follows below, and nobody else is told.\r\n"
        }
        (Reader::Sender, Outcome::Failed) => {
            "Your message could not be delivered to the following recipients. It will not\r\n\
             be tried again.\r\n"
        }
        (Reader::Sender, Outcome::Delayed) => {
            "Your message has not been delivered to the following recipients yet. It is\r\n\
             still being tried: you need not send it again.\r\n"
        }
        (Reader::Sender, Outcome::Delivered) => {
            "Your message was delivered to the following recipients.\r\n"
        }
        (Reader::Sender, Outcome::Relayed) => {
            "Your message was handed to the next mail system for the following recipients.\r\n\
             That system may not tell you when it is delivered.\r\n"
        }
    };
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(words.as_bytes());
    if outcome == Outcome::Delayed {
        out.extend_from_slice(b"\r\nIt will be tried until ");
        write_date(report.retry_until_ms, out);
        out.extend_from_slice(b".\r\n");
    }
}

fn write_status(report: &Report<'_>, boundary: &str, out: &mut Vec<u8>) {
    let subtype = match report.is_international() {
        true => "global-delivery-status",
        false => "delivery-status",
    };
    let _ = write!(
        out,
        "\r\n--{boundary}\r\nContent-Type: message/{subtype}\r\n\r\nReporting-MTA: dns;{}\r\n",
        report.reporting_mta
    );
    if let Some(envelope_id) = report.envelope_id {
        let _ = write!(out, "Original-Envelope-Id: {}\r\n", xtext::decode(envelope_id));
    }
    out.extend_from_slice(b"Arrival-Date: ");
    write_date(report.arrival_ms, out);
    out.extend_from_slice(b"\r\n");
    for recipient in report.recipients {
        write_recipient(report, recipient, out);
    }
}

fn write_recipient(report: &Report<'_>, recipient: &ReportedRecipient<'_>, out: &mut Vec<u8>) {
    let ReportedRecipient { address, reply, outcome, .. } = recipient;
    out.extend_from_slice(b"\r\n");
    if let Some(original) = recipient.original_recipient {
        let (kind, address) = original.split_once(';').unwrap_or(("rfc822", original));
        let address = match kind.eq_ignore_ascii_case("utf-8") {
            // Its encoding is read where the report is.
            true => address.to_owned(),
            false => xtext::decode(address),
        };
        let _ = write!(out, "Original-Recipient: {kind};{}\r\n", shown(&address, report));
    }
    let kind = if report.is_international() { "utf-8" } else { "rfc822" };
    let _ = write!(
        out,
        "Final-Recipient: {kind};{}\r\nAction: {}\r\nStatus: {}\r\n",
        shown(address, report),
        outcome.as_str(),
        status_of(*outcome, reply)
    );
    if let (true, Some(remote)) = (reply.is_remote, report.remote_mta) {
        let _ = match (remote.host, remote.address) {
            (Some(host), _) => write!(out, "Remote-MTA: dns;{host}\r\n"),
            (None, IpAddr::V4(remote)) => write!(out, "Remote-MTA: dns;[{remote}]\r\n"),
            (None, IpAddr::V6(remote)) => write!(out, "Remote-MTA: dns;[IPv6:{remote}]\r\n"),
        };
    }
    let kind = if reply.is_remote { "smtp" } else { "x-ringpost" };
    let text = reply.to_string();
    let _ = write!(
        out,
        "Diagnostic-Code: {kind};{}\r\nLast-Attempt-Date: ",
        clip(&shown(&text, report))
    );
    write_date(report.now_ms, out);
    let _ = write!(out, "\r\nFinal-Log-ID: {}\r\n", report.queue_id);
    if *outcome == Outcome::Delayed {
        out.extend_from_slice(b"Will-Retry-Until: ");
        write_date(report.retry_until_ms, out);
        out.extend_from_slice(b"\r\n");
    }
}

/// The status that fits the action: a recipient may have Failed though its last reply was
/// transient.
fn status_of(outcome: Outcome, reply: &Reply) -> String {
    let class = match outcome {
        Outcome::Delivered | Outcome::Relayed => 2,
        Outcome::Delayed => 4,
        Outcome::Failed => 5,
    };
    match reply.status {
        Some(status) => format!("{class}.{}.{}", status.subject, status.detail),
        None => format!("{class}.0.0"),
    }
}

/// Text for a field of the status part, which is in ASCII but for an international report.
fn shown<'t>(text: &'t str, report: &Report<'_>) -> Cow<'t, str> {
    if text.is_ascii() || report.is_international() {
        return Cow::Borrowed(text);
    }
    let encoded = text.chars().map(|c| match c.is_ascii() {
        true => c.to_string(),
        false => format!("\\x{{{:02X}}}", u32::from(c)),
    });
    Cow::Owned(encoded.collect())
}

fn write_original(report: &Report<'_>, boundary: &str, out: &mut Vec<u8>) {
    let bytes = report.header_prefix.len() + report.content.len();
    let whole = report.reports(Outcome::Failed)
        && report.content_is_whole
        && bytes <= RETURNED_BYTES_MAX
        && !report.flags.has(EnvelopeFlags::RETURN_HEADERS);
    let content = if whole { report.content } else { header_section(report.content) };
    let content_type = match (whole, report.is_international()) {
        (true, false) => "message/rfc822",
        (true, true) => "message/global",
        (false, false) => "text/rfc822-headers",
        (false, true) => "message/global-headers",
    };
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
mod tests;
