//! The Received field a relay adds (RFC 5321 §4.4).

use std::io::Write;
use std::net::IpAddr;

use super::date::write_date;
use crate::mail::QueueId;

/// What a Received field says.
pub struct Received<'a> {
    /// The name the client gave in EHLO or HELO.
    pub helo_name: &'a str,
    pub client: IpAddr,
    /// `ESMTP`, `SMTP`, `UTF8SMTP`, `LMTP`.
    pub protocol: &'a str,
    pub hostname: &'a str,
    pub queue_id: QueueId,
    /// Named only when there is a single one: others' addresses are not disclosed.
    pub recipient: Option<&'a str>,
    pub unix_ms: u64,
}

impl Received<'_> {
    /// Appends the field, folded, ending in CRLF.
    pub fn write(&self, out: &mut Vec<u8>) {
        // Writing into memory does not fail.
        let _ = write!(out, "Received: from {} (", self.helo_name);
        let _ = match self.client {
            IpAddr::V4(client) => write!(out, "[{client}]"),
            IpAddr::V6(client) => write!(out, "[IPv6:{client}]"),
        };
        let _ = write!(
            out,
            ")\r\n\tby {} (ringpost) with {} id {}",
            self.hostname, self.protocol, self.queue_id
        );
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

    #[test]
    fn the_field_names_client_server_id_and_time() {
        let mut out = Vec::new();
        Received {
            helo_name: "client.example",
            client: "2001:db8::1".parse().expect("an address"),
            protocol: "ESMTP",
            hostname: "mx.example",
            queue_id: QueueId { node: 0, shard: 1, message: 33 },
            recipient: Some("a@b.example"),
            unix_ms: 0,
        }
        .write(&mut out);
        let expected = "Received: from client.example ([IPv6:2001:db8::1])\r\n\
            \tby mx.example (ringpost) with ESMTP id 0.1.11\r\n\
            \tfor <a@b.example>;\r\n\
            \tThu, 1 Jan 1970 00:00:00 +0000\r\n";
        assert_eq!(String::from_utf8(out).expect("ASCII"), expected);
    }
}
