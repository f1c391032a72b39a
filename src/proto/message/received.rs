//! The Received field a relay adds (RFC 5321 §4.4).

use std::io::Write;
use std::net::IpAddr;

use super::date::write_date;
use crate::mail::{Protection, QueueId};

/// What a Received field says.
pub struct Received<'a> {
    /// The name the client gave in EHLO or HELO.
    pub helo_name: &'a str,
    /// `None` where it has no address: it came by a socket of this machine.
    pub client: Option<IpAddr>,
    /// `ESMTP`, `ESMTPS`, `SMTP`, `UTF8SMTP`, `UTF8SMTPS`, `LMTP` (RFC 3848, RFC 6531 §3.7.3).
    pub protocol: &'a str,
    pub protection: Option<Protection>,
    pub hostname: &'a str,
    /// `None` where it goes straight into mailboxes.
    pub queue_id: Option<QueueId>,
    /// Named only when there is a single one: others' addresses are not disclosed.
    pub recipient: Option<&'a str>,
    pub unix_ms: u64,
}

impl Received<'_> {
    /// Appends the field, folded, ending in CRLF.
    pub fn write(&self, out: &mut Vec<u8>) {
        // Writing into memory does not fail.
        let _ = write!(out, "Received: from {}", self.helo_name);
        let _ = match self.client {
            Some(IpAddr::V4(client)) => write!(out, " ([{client}])"),
            Some(IpAddr::V6(client)) => write!(out, " ([IPv6:{client}])"),
            None => Ok(()),
        };
        if let Some(Protection { version, cipher, verified_by }) = self.protection {
            let client = match verified_by {
                Some(_) => ", client certificate verified",
                None => "",
            };
            let _ = write!(out, "\r\n\t(using {version} with cipher {cipher}{client})");
        }
        let _ = write!(out, "\r\n\tby {} (ringpost) with {}", self.hostname, self.protocol);
        if let Some(queue_id) = self.queue_id {
            let _ = write!(out, " id {queue_id}");
        }
        if let Some(recipient) = self.recipient {
            let _ = write!(out, "\r\n\tfor <{recipient}>");
        }
        out.extend_from_slice(b";\r\n\t");
        write_date(self.unix_ms, out);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::VerifiedBy;

    const FIELD: Received<'_> = Received {
        helo_name: "client.example",
        client: Some(IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))),
        protocol: "ESMTP",
        protection: None,
        hostname: "mx.example",
        queue_id: Some(QueueId { node: 0, shard: 1, message: 33 }),
        recipient: Some("a@b.example"),
        unix_ms: 0,
    };

    #[test]
    fn the_field_names_client_server_id_and_time() {
        let mut out = Vec::new();
        FIELD.write(&mut out);
        let expected = "Received: from client.example ([IPv6:2001:db8::1])\r\n\
            \tby mx.example (ringpost) with ESMTP id 0.1.11\r\n\
            \tfor <a@b.example>;\r\n\
            \tThu, 1 Jan 1970 00:00:00 +0000\r\n";
        assert_eq!(String::from_utf8(out).expect("ASCII"), expected);
    }

    #[test]
    fn what_was_not_queued_has_no_id() {
        let mut out = Vec::new();
        Received { protocol: "LMTP", queue_id: None, ..FIELD }.write(&mut out);
        let text = String::from_utf8(out).expect("ASCII");
        assert!(text.contains("\tby mx.example (ringpost) with LMTP\r\n\tfor <"), "{text}");
    }

    #[test]
    fn a_client_without_an_address_is_known_by_its_name() {
        let mut out = Vec::new();
        Received { client: None, protocol: "LMTP", ..FIELD }.write(&mut out);
        let text = String::from_utf8(out).expect("ASCII");
        assert!(text.starts_with("Received: from client.example\r\n\tby mx.example "), "{text}");
    }

    #[test]
    fn the_field_says_what_protected_the_session() {
        let protection = |verified_by| {
            Some(Protection { version: "TLSv1.3", cipher: "TLS_AES_256_GCM_SHA384", verified_by })
        };
        let verified = (Some(VerifiedBy::Ca), ", client certificate verified");
        for (verified_by, client) in [(None, ""), verified] {
            let mut out = Vec::new();
            let protection = protection(verified_by);
            Received { protection, protocol: "ESMTPS", ..FIELD }.write(&mut out);
            let text = String::from_utf8(out).expect("ASCII");
            let expected = format!(
                ")\r\n\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384{client})\r\n\
                 \tby mx.example (ringpost) with ESMTPS id 0.1.11\r\n"
            );
            assert!(text.contains(&expected), "{text}");
        }
    }
}
