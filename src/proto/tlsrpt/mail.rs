//! A report in a message (RFC 8460 §5.3).

use std::io::Write;

use crate::proto::message::date::write_date;
use crate::proto::sasl::base64;

/// What the message says around a report.
pub struct Mail<'a> {
    /// Mailbox of the From field.
    pub from: &'a str,
    /// Mailbox of the receiver.
    pub to: &'a str,
    /// Whose sessions are reported on.
    pub domain: &'a str,
    /// The host that sent.
    pub submitter: &'a str,
    pub report_id: &'a str,
    /// Of the report without an ending; see RFC 8460 §5.2.
    pub file_name: &'a str,
    /// Unix milliseconds.
    pub now_ms: u64,
    /// JSON under gzip.
    pub report: &'a [u8],
}

/// Appends the message as CRLF-canonical content in 7 bits, without a line that begins with a dot.
///
/// It is not signed by DKIM, which §5.3 wants: this server does not sign yet.
pub fn compose(mail: &Mail<'_>, out: &mut Vec<u8>) {
    let Mail { from, to, domain, submitter, report_id, file_name, now_ms, report } = mail;
    let boundary = format!("tlsrpt-{now_ms}-{}", report.len());
    // Writing into memory does not fail, here and below.
    let _ = write!(out, "From: <{from}>\r\nTo: <{to}>\r\nDate: ");
    write_date(*now_ms, out);
    let _ = write!(
        out,
        "\r\nSubject: Report Domain: {domain}\r\n\
         \tSubmitter: {submitter}\r\n\
         \tReport-ID: <{report_id}>\r\n\
         Message-ID: <{report_id}>\r\n\
         TLS-Report-Domain: {domain}\r\n\
         TLS-Report-Submitter: {submitter}\r\n\
         TLS-Required: No\r\n\
         Auto-Submitted: auto-generated\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=\"tlsrpt\";\r\n\
         \tboundary=\"{boundary}\"\r\n\
         Content-Language: en\r\n\r\n\
         This is a report in MIME format.\r\n\
         \r\n--{boundary}\r\n\
         Content-Type: text/plain; charset=us-ascii\r\n\
         Content-Transfer-Encoding: 7bit\r\n\r\n\
         This is an aggregate TLS report from {submitter}\r\n\
         \r\n--{boundary}\r\n\
         Content-Type: application/tlsrpt+gzip\r\n\
         Content-Transfer-Encoding: base64\r\n\
         Content-Disposition: attachment;\r\n\
         \tfilename=\"{file_name}.json.gz\"\r\n\r\n"
    );
    let mut text = String::new();
    base64::encode(report, &mut text);
    for line in text.as_bytes().chunks(BASE64_LINE_BYTES) {
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
    }
    let _ = write!(out, "\r\n--{boundary}--\r\n");
}

/// RFC 2045 §6.8.
const BASE64_LINE_BYTES: usize = 76;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::message::header::HeaderWatch;

    #[test]
    fn a_message_says_what_rfc_8460_asks_for_around_its_report() {
        let mail = Mail {
            from: "tls@us.test",
            to: "reports@d.test",
            domain: "d.test",
            submitter: "mx.us.test",
            report_id: "7@mx.us.test",
            file_name: "mx.us.test!d.test!1!2",
            now_ms: 1_795_672_800_000,
            report: &[7; 200],
        };
        let mut content = Vec::new();
        compose(&mail, &mut content);
        let text = String::from_utf8(content.clone()).expect("ASCII");
        assert!(text.is_ascii() && !text.contains("\r\n."));
        assert!(text.lines().all(|line| line.len() <= 998));
        assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
        for field in [
            "From: <tls@us.test>\r\nTo: <reports@d.test>\r\n",
            "Subject: Report Domain: d.test\r\n\tSubmitter: mx.us.test\r\n",
            "\r\n\tReport-ID: <7@mx.us.test>\r\nMessage-ID: <",
            "\r\nTLS-Report-Domain: d.test\r\nTLS-Report-Submitter: mx.us.test\r\n",
            "\r\nContent-Type: multipart/report; report-type=\"tlsrpt\";\r\n\tboundary=\"tlsrpt-",
            "filename=\"mx.us.test!d.test!1!2.json.gz\"\r\n",
        ] {
            assert!(text.contains(field), "{field}\n{text}");
        }
        let parts: Vec<&str> = text.split("\r\n\r\n").collect();
        let encoded: String = parts[5].lines().collect();
        assert_eq!(base64::decode(encoded.as_bytes()), Some(vec![7; 200]));
        // As if it came from outside.
        let mut watch = HeaderWatch::default();
        watch.feed(&content);
        assert!(watch.says_tls_optional());
    }
}
