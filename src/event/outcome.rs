//! The outcome of one recipient in one attempt.

use std::io::Write;
use std::time::Duration;

use crate::mail::{self, Outcome, Protection, QueueId, Reply, ReplyClass, Stream, VerifiedBy};

/// How a record is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `key=value` words.
    Text,
    /// One object a line.
    Json,
}

/// What an operator wants to know of an attempt.
pub struct OutcomeRecord<'a> {
    /// Unix milliseconds.
    pub time_ms: u64,
    pub queue_id: QueueId,
    /// Empty for the null reverse-path.
    pub reverse_path: &'a str,
    pub recipient: &'a str,
    /// What the message is part of; what nobody said is left out.
    pub stream: &'a Stream,
    /// The next hop in words.
    pub site: &'a str,
    /// What protected the session; nothing is said of one without TLS.
    pub protection: Option<Protection>,
    pub outcome: Outcome,
    /// Why; for Delayed and Failed.
    pub class: Option<ReplyClass>,
    pub reply: &'a Reply,
    /// 1-based.
    pub attempt_count: u32,
    /// From acceptance to now.
    pub queued: Duration,
    /// From taking the task to the outcome.
    pub attempt: Duration,
    pub possible_duplicate: bool,
    pub content_bytes: u64,
}

impl OutcomeRecord<'_> {
    /// Appends the record as one line.
    pub fn write(&self, format: Format, out: &mut Vec<u8>) {
        let status = self.reply.status.map_or_else(String::new, |status| status.to_string());
        let time = self.time_ms as f64 / 1000.0;
        let queued = self.queued.as_secs_f64();
        let attempt = self.attempt.as_secs_f64();
        let outcome = self.outcome.as_str();
        let class = Class(self.class, format);
        let part_of = PartOf(self.stream, format);
        let tls = Tls(self.protection, format);
        let Self { queue_id: id, reply, content_bytes: bytes, attempt_count, .. } = self;
        // Writing into memory does not fail.
        let _ = match format {
            Format::Text => writeln!(
                out,
                "time={time:.3} id={id} outcome={outcome} reverse_path=<{}> \
                 recipient=<{}>{part_of} site={}{tls} attempt={attempt_count} code={} \
                 status={status}{class} queued={queued:.3} took={attempt:.3} bytes={bytes} \
                 duplicate={} reply=\"{}\"",
                Word(self.reverse_path),
                Word(self.recipient),
                Word(self.site),
                reply.code,
                self.possible_duplicate,
                Escaped(&reply.text),
            ),
            Format::Json => writeln!(
                out,
                "{{\"time\":{time:.3},\"id\":\"{id}\",\"outcome\":\"{outcome}\",\
                 \"reverse_path\":\"{}\",\"recipient\":\"{}\"{part_of},\"site\":\"{}\"{tls},\
                 \"attempt\":{attempt_count},\"code\":{},\
                 \"status\":\"{status}\"{class},\"queued\":{queued:.3},\"took\":{attempt:.3},\
                 \"bytes\":{bytes},\"duplicate\":{},\"reply\":\"{}\"}}",
                Escaped(self.reverse_path),
                Escaped(self.recipient),
                Escaped(self.site),
                reply.code,
                self.possible_duplicate,
                Escaped(&reply.text),
            ),
        };
    }
}

/// The field of a class, with what separates it from the field before; nothing without a class.
struct Class(Option<ReplyClass>, Format);

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(class) = self.0 else { return Ok(()) };
        match self.1 {
            Format::Text => write!(f, " class={}", class.as_str()),
            Format::Json => write!(f, ",\"class\":\"{}\"", class.as_str()),
        }
    }
}

/// The fields of a TLS session, each with what separates it from the field before.
struct Tls(Option<Protection>, Format);

impl std::fmt::Display for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(Protection { version, cipher, verified_by }) = self.0 else { return Ok(()) };
        let is_verified = verified_by.is_some();
        match self.1 {
            Format::Text => {
                write!(f, " tls={version} cipher={cipher} verified={is_verified}")?;
                verified_by.map_or(Ok(()), |by| write!(f, " verified_by={}", by.as_str()))
            }
            Format::Json => {
                let session = format_args!("\"tls\":\"{version}\",\"cipher\":\"{cipher}\"");
                write!(f, ",{session},\"verified\":{is_verified}")?;
                let by = |by: VerifiedBy| write!(f, ",\"verified_by\":\"{}\"", by.as_str());
                verified_by.map_or(Ok(()), by)
            }
        }
    }
}

/// The fields of a stream, each with what separates it from the field before.
struct PartOf<'a>(&'a Stream, Format);

impl std::fmt::Display for PartOf<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Stream { tenant, campaign, class, .. } = self.0;
        let class = match class {
            mail::Class::Transactional => class.as_str(),
            mail::Class::Bulk => "",
        };
        let fields = [("tenant", &**tenant), ("campaign", campaign), ("mail_class", class)];
        for (key, value) in fields.into_iter().filter(|(_, value)| !value.is_empty()) {
            match self.1 {
                Format::Text => write!(f, " {key}={}", Word(value))?,
                Format::Json => write!(f, ",\"{key}\":\"{}\"", Escaped(value))?,
            }
        }
        Ok(())
    }
}

/// Text between quotes, in the escapes of JSON: no quote, no control character gets through.
pub(super) struct Escaped<'a>(pub &'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        escape(self.0, |c| c == '"' || c == '\\' || c.is_control(), f)
    }
}

/// Text without quotes round it, in the same escapes: nothing that could end the field gets
/// through either. A quoted local-part may hold spaces and angle brackets.
struct Word<'a>(&'a str);

impl std::fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ends_field = |c: char| c.is_whitespace() || c == '<' || c == '>';
        escape(self.0, |c| c == '"' || c == '\\' || c.is_control() || ends_field(c), f)
    }
}

fn escape(
    text: &str,
    is_special: impl Fn(char) -> bool,
    f: &mut std::fmt::Formatter<'_>,
) -> std::fmt::Result {
    let mut rest = text;
    while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_special(*c)) {
        f.write_str(&rest[..at])?;
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            '\n' => f.write_str("\\n")?,
            c => write!(f, "\\u{:04x}", u32::from(c))?,
        }
        rest = &rest[at + c.len_utf8()..];
    }
    f.write_str(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::status;

    #[test]
    fn hostile_text_stays_in_its_line_and_field() {
        let reply =
            Reply::with_text(550, status::BAD_MAILBOX, "no\r\ntime=0 \"x\" \\ \u{85}ü".into());
        let stream = Stream {
            tenant: "acme".into(),
            campaign: "of \"spring\"".into(),
            class: mail::Class::Transactional,
            ..Stream::default()
        };
        let record = OutcomeRecord {
            stream: &stream,
            time_ms: 1_500,
            queue_id: QueueId { node: 0, shard: 1, message: 2 },
            reverse_path: "",
            recipient: "\"a\n> to=<b\"@c.test",
            site: "smtp://127.0.0.1:25",
            protection: Some(Protection {
                version: "TLSv1.3",
                cipher: "TLS_AES_128_GCM_SHA256",
                verified_by: Some(VerifiedBy::MtaSts),
            }),
            outcome: Outcome::Failed,
            class: Some(ReplyClass::InvalidMailbox),
            reply: &reply,
            attempt_count: 1,
            queued: Duration::from_millis(1_250),
            attempt: Duration::from_millis(250),
            possible_duplicate: false,
            content_bytes: 7,
        };
        let mut text = Vec::new();
        record.write(Format::Text, &mut text);
        assert_eq!(text.iter().filter(|octet| **octet == b'\n').count(), 1);
        let text = String::from_utf8(text).expect("UTF-8");
        assert!(
            text.contains(
                " recipient=<\\\"a\\n\\u003e\\u0020to=\\u003cb\\\"@c.test> \
                 tenant=acme campaign=of\\u0020\\\"spring\\\" mail_class=transactional site="
            ),
            "{text}"
        );
        assert!(text.contains(" status=5.1.1 class=invalid-mailbox queued="), "{text}");
        let tls = " tls=TLSv1.3 cipher=TLS_AES_128_GCM_SHA256 verified=true \
                   verified_by=mta-sts attempt=1 ";
        assert!(text.contains(tls), "{text}");
        let mut json = Vec::new();
        record.write(Format::Json, &mut json);
        let value: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!(value["reply"], "no\r\ntime=0 \"x\" \\ \u{85}ü");
        assert_eq!(value["recipient"], "\"a\n> to=<b\"@c.test");
        assert_eq!(value["status"], "5.1.1");
        assert_eq!(value["class"], "invalid-mailbox");
        assert_eq!(value["queued"], 1.25);
        assert_eq!((&value["tls"], &value["verified"]), (&"TLSv1.3".into(), &true.into()));
        assert_eq!(value["verified_by"], "mta-sts");
        assert_eq!(value["campaign"], "of \"spring\"");
        for (format, word) in [(Format::Text, "class="), (Format::Json, "\"class\"")] {
            let mut line = Vec::new();
            let stream = &Stream::default();
            OutcomeRecord { outcome: Outcome::Relayed, class: None, stream, ..record }
                .write(format, &mut line);
            assert!(!String::from_utf8(line).expect("UTF-8").contains(word));
        }
    }
}
