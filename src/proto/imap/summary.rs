//! What is kept of a message so that lists and most searches need no look at its octets: ENVELOPE
//! as it is sent, the first words, and the structure (docs/MAILBOX.md).

use super::envelope::write_envelope;
use crate::proto::mime::preview::preview;
use crate::proto::mime::stored::stored_is_truncated;
use crate::proto::mime::structure::Structure;

/// A summary, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary<'s> {
    /// Octets of the message that it is of.
    pub message_bytes: u32,
    /// ENVELOPE, rendered.
    pub envelope: &'s [u8],
    /// UTF-8 on one line; empty where there is no text.
    pub preview: &'s [u8],
    /// As `Structure::read` and `stored_fields` take it.
    pub structure: &'s [u8],
}

/// Appends the summary of a message. `content` is its beginning, without the first
/// `trace_bytes` octets.
pub fn write_summary(structure: Structure, content: &[u8], trace_bytes: u32, out: &mut Vec<u8>) {
    let preview = preview(&structure, content);
    let structure = structure.behind(trace_bytes.into());
    out.push(VERSION);
    out.extend_from_slice(&(structure.parts[0].end() as u32).to_le_bytes());
    out.extend_from_slice(&(preview.len() as u32).to_le_bytes());
    let envelope_bytes_at = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(preview.as_bytes());
    let envelope_start = out.len();
    write_envelope(&structure, 0, out);
    let envelope_bytes = (out.len() - envelope_start) as u32;
    out[envelope_bytes_at..][..4].copy_from_slice(&envelope_bytes.to_le_bytes());
    structure.write(out);
}

impl<'s> Summary<'s> {
    /// A summary as it was written; `None` for anything else, as far as that can be told without
    /// taking the structure apart.
    pub fn read(octets: &'s [u8]) -> Option<Self> {
        let ([VERSION], rest) = octets.split_at_checked(1)? else { return None };
        let (numbers, rest) = rest.split_at_checked(12)?;
        let number = |at: usize| Some(u32::from_le_bytes(numbers[at..at + 4].try_into().ok()?));
        let (preview, rest) = rest.split_at_checked(number(4)? as usize)?;
        let (envelope, structure) = rest.split_at_checked(number(8)? as usize)?;
        let is_sound = std::str::from_utf8(preview).is_ok()
            && matches!(envelope, [b'(', .., b')'])
            && !structure.is_empty();
        let message_bytes = number(0)?;
        is_sound.then_some(Self { message_bytes, envelope, preview, structure })
    }

    /// Whether something of the message is missing here.
    pub fn is_truncated(&self) -> bool {
        stored_is_truncated(self.structure)
    }
}

/// Of the form; what has another is made anew.
const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mime::scan::scan;

    const CONTENT: &[u8] = b"Subject: s\r\nFrom: a@b\r\n\r\nHello\r\n";

    #[test]
    fn summaries_come_back() {
        let mut out = Vec::new();
        write_summary(scan(CONTENT), CONTENT, 0, &mut out);
        let summary = Summary::read(&out).expect("a summary");
        assert_eq!(summary.preview, b"Hello");
        assert!(summary.envelope.starts_with(b"(NIL \"s\" ((NIL NIL \"a\" \"b\"))"));
        assert_eq!(summary.message_bytes, CONTENT.len() as u32);
        assert_eq!(Structure::read(summary.structure), Some(scan(CONTENT)));
        assert!(!summary.is_truncated());
        for cut in 0..out.len() {
            let structure = Summary::read(&out[..cut]).map(|it| Structure::read(it.structure));
            assert_eq!(structure.flatten(), None, "cut at {cut}");
        }
    }

    #[test]
    fn trace_fields_in_front_change_the_structure_alone() {
        let trace = b"Received: x\r\n";
        let whole = [trace, CONTENT].concat();
        let (mut here, mut there) = (Vec::new(), Vec::new());
        write_summary(scan(&whole), &whole, 0, &mut here);
        write_summary(scan(CONTENT), CONTENT, trace.len() as u32, &mut there);
        assert_eq!(here, there);
    }
}
