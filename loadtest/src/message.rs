//! Messages of a run: made once, sent often, each with an id of its own.
//!
//! Pure, but for reading a directory of .eml files.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::audit::SEQUENCE_END;
use crate::failure::Failure;
use crate::ids::RunId;
use crate::units::SizeMix;

/// One message, ready for the wire but for its id block, which goes before it.
pub struct Template {
    /// MAIL with SIZE, and BODY=8BITMIME where the content needs it; CRLF included.
    pub mail_esmtp: Vec<u8>,
    /// MAIL without parameters.
    pub mail_plain: Vec<u8>,
    /// `BDAT n LAST` with the id block counted.
    pub bdat: Vec<u8>,
    /// The content after the id block, as it is.
    pub content: Vec<u8>,
    /// The same, dot-stuffed, with the line that ends data (RFC 5321 §4.5.2).
    pub stuffed: Vec<u8>,
    /// What stands in the id block.
    pub id_block: IdBlock,
}

/// Which fields carry the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdBlock {
    /// `X-Ringpost-Load` alone: the message has a Message-ID.
    Load,
    /// `X-Ringpost-Load` and `Message-ID`.
    LoadAndMessageId,
}

impl Template {
    /// Of `content`, CRLF-canonical, which the id block goes before.
    pub fn new(content: Vec<u8>, id_block: IdBlock, reverse_path: &str) -> Self {
        let bytes = id_block.bytes() + content.len();
        let body = if content.is_ascii() { "" } else { " BODY=8BITMIME" };
        let mut stuffed = Vec::with_capacity(content.len() + 64);
        stuff(&content, &mut stuffed);
        Self {
            mail_esmtp: format!("MAIL FROM:<{reverse_path}> SIZE={bytes}{body}\r\n").into_bytes(),
            mail_plain: format!("MAIL FROM:<{reverse_path}>\r\n").into_bytes(),
            bdat: format!("BDAT {bytes} LAST\r\n").into_bytes(),
            content,
            stuffed,
            id_block,
        }
    }
}

impl IdBlock {
    fn bytes(self) -> usize {
        let mut block = Vec::new();
        self.write(RunId(0), 0, &mut block);
        block.len()
    }

    /// Replaces `block` by the header fields that identify message `sequence`.
    pub fn write(self, run: RunId, sequence: u64, block: &mut Vec<u8>) {
        assert!(sequence < SEQUENCE_END);
        block.clear();
        block.extend_from_slice(LOAD_FIELD);
        write_id(run, sequence, block);
        block.extend_from_slice(b"\r\n");
        if self == Self::LoadAndMessageId {
            block.extend_from_slice(b"Message-ID: <");
            write_id(run, sequence, block);
            block.extend_from_slice(b"@source.test>\r\n");
        }
    }
}

/// Whether a message arrived as it was sent, below trace fields that servers put on top.
///
/// `index_of` gives the index in the run for a sequence number.
pub fn arrived_intact(received: &[u8], corpus: &Corpus, index_of: impl Fn(u64) -> u64) -> bool {
    let (Some((run, sequence)), Some(at)) = (find_id(received), FIELD_FINDER.find(received)) else {
        return false;
    };
    let template = corpus.template(index_of(sequence));
    let mut block = Vec::new();
    template.id_block.write(run, sequence, &mut block);
    let (trace, sent) = received.split_at(at);
    let only_trace = trace.split_inclusive(|byte| *byte == b'\n').all(|line| {
        line.starts_with(b" ") || line.starts_with(b"\t") || line.starts_with(b"Received: ")
    });
    only_trace && sent.strip_prefix(&block[..]) == Some(&template.content[..])
}

/// Run and sequence number of the message whose content starts with `head`, if it is one of ours.
pub fn find_id(head: &[u8]) -> Option<(RunId, u64)> {
    let at = FIELD_FINDER.find(head)?;
    let id = head.get(at + LOAD_FIELD.len()..)?.get(..ID_BYTES)?;
    if id[8] != b'-' || (at > 0 && head[at - 1] != b'\n') {
        return None;
    }
    let run = u32::try_from(from_hex(&id[..8])?).ok()?;
    Some((RunId(run), from_hex(&id[9..])?))
}

/// The messages of a run and the order in which they are sent.
pub struct Corpus {
    templates: Vec<Template>,
    /// Indexes into `templates`.
    pattern: Vec<usize>,
}

impl Corpus {
    /// The .eml files of a directory in turn, or generated messages of a mix, which begin with
    /// `fields`.
    pub fn new(
        mix: &SizeMix,
        eml: Option<&Path>,
        reverse_path: &str,
        fields: &[String],
    ) -> Result<Self, Failure> {
        let Some(directory) = eml else {
            let templates = generate(mix, reverse_path, fields);
            return Ok(Self { templates, pattern: mix.pattern() });
        };
        let templates = load_directory(directory, reverse_path)?;
        let pattern = (0..templates.len()).collect();
        Ok(Self { templates, pattern })
    }

    /// Message `index` of the run.
    pub fn template(&self, index: u64) -> &Template {
        &self.templates[self.pattern[(index % self.pattern.len() as u64) as usize]]
    }
}

/// One generated message of each size of the mix.
fn generate(mix: &SizeMix, reverse_path: &str, fields: &[String]) -> Vec<Template> {
    let lines: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    let lines = lines.as_bytes();
    let make = |(bytes, _): &(u64, u32)| {
        let id_block = IdBlock::LoadAndMessageId;
        let rest =
            generated_content((*bytes as usize).saturating_sub(id_block.bytes() + lines.len()));
        let content = [lines, &rest].concat();
        Template::new(content, id_block, reverse_path)
    };
    mix.entries.iter().map(make).collect()
}

/// Every .eml file below a directory in the order of names, CRLF-canonical.
fn load_directory(directory: &Path, reverse_path: &str) -> Result<Vec<Template>, Failure> {
    let unreadable =
        |error| Failure::no_input(format!("cannot read {}: {error}", directory.display()));
    let mut paths = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let path = entry.path();
            // A link to a directory is not followed: it may lead round in a circle.
            if entry.file_type().map_err(unreadable)?.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "eml") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    if paths.is_empty() {
        return Err(Failure::no_input(format!("no .eml files in {}", directory.display())));
    }
    let mut templates = Vec::new();
    for path in paths {
        let bytes = fs::read(&path)
            .map_err(|error| Failure::no_input(format!("{}: {error}", path.display())))?;
        templates.push(Template::new(canonical(&bytes), IdBlock::Load, reverse_path));
    }
    Ok(templates)
}

/// Every CR, LF and CRLF becomes CRLF; the last line gets one too.
fn canonical(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 32 + 2);
    let mut rest = bytes;
    while let Some(end) = memchr::memchr2(b'\r', b'\n', rest) {
        out.extend_from_slice(&rest[..end]);
        out.extend_from_slice(b"\r\n");
        let newline_bytes = if rest[end..].starts_with(b"\r\n") { 2 } else { 1 };
        rest = &rest[end + newline_bytes..];
    }
    if !rest.is_empty() {
        out.extend_from_slice(rest);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Appends CRLF-canonical content for DATA, with the end of data.
fn stuff(content: &[u8], out: &mut Vec<u8>) {
    let mut rest = content;
    while !rest.is_empty() {
        let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        if rest[0] == b'.' {
            out.push(b'.');
        }
        out.extend_from_slice(&rest[..end]);
        rest = &rest[end..];
    }
    out.extend_from_slice(b".\r\n");
}

/// A text message of exactly `bytes` bytes; one line in 32 begins with a dot.
fn generated_content(bytes: usize) -> Vec<u8> {
    let mut content = HEADER_SECTION.to_vec();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut line_index = 0;
    while content.len() + LINE_BYTES + 2 < bytes {
        let mut line = Vec::with_capacity(LINE_BYTES);
        if line_index % 32 == 31 {
            line.push(b'.');
        }
        while line.len() < LINE_BYTES - 2 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let word = WORDS[(state >> 33) as usize % WORDS.len()];
            line.extend_from_slice(word);
            line.push(b' ');
        }
        line.truncate(LINE_BYTES - 2);
        content.extend_from_slice(&line);
        content.extend_from_slice(b"\r\n");
        line_index += 1;
    }
    while content.len() + 2 < bytes {
        content.push(b'x');
    }
    content.extend_from_slice(b"\r\n");
    content
}

fn write_id(run: RunId, sequence: u64, out: &mut Vec<u8>) {
    write_hex(u64::from(run.0), 8, out);
    out.push(b'-');
    write_hex(sequence, 12, out);
}

fn write_hex(value: u64, digits: u32, out: &mut Vec<u8>) {
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(value >> (digit * 4)) as usize & 0xf]);
    }
}

fn from_hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = (*digit as char).to_digit(16)?;
        Some(value << 4 | u64::from(digit))
    })
}

/// The field that identifies a message of the load generator.
pub const LOAD_FIELD: &[u8] = b"X-Ringpost-Load: ";
/// Eight digits of the run, a hyphen, twelve digits of the sequence number.
const ID_BYTES: usize = 21;
const LINE_BYTES: usize = 76;
const HEADER_SECTION: &[u8] = b"From: Source <source@source.test>\r\n\
    To: Sink <recipient@sink.test>\r\n\
    Subject: A message of the load generator\r\n\
    Date: Mon, 02 Nov 2026 10:00:00 +0000\r\n\
    MIME-Version: 1.0\r\n\
    Content-Type: text/plain; charset=us-ascii\r\n\
    Content-Transfer-Encoding: 7bit\r\n\
    \r\n";
const WORDS: [&[u8]; 12] = [
    b"relay",
    b"durable",
    b"ring",
    b"post",
    b"of",
    b"a",
    b"mailbox",
    b"journal",
    b"the",
    b"queue",
    b"transaction",
    b"to",
];
static FIELD_FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(LOAD_FIELD));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_message_has_the_size_it_was_asked_for() {
        let mix: SizeMix = "512,2KiB,4KiB,100KiB".parse().expect("valid");
        let fields = ["X-Class: bulk", "X-Tenant: acme"].map(str::to_owned);
        for (template, (bytes, _)) in generate(&mix, "a@b.test", &fields).iter().zip(&mix.entries) {
            let mut message = Vec::new();
            template.id_block.write(RunId(7), 99, &mut message);
            message.extend_from_slice(&template.content);
            assert_eq!(message.len() as u64, *bytes);
            assert!(message.ends_with(b"\r\n"));
            assert!(memchr::memchr_iter(b'\n', &message).all(|at| message[at - 1] == b'\r'));
            assert_eq!(find_id(&message), Some((RunId(7), 99)));
            assert_eq!(template.bdat, format!("BDAT {bytes} LAST\r\n").into_bytes());
        }
    }

    #[test]
    fn an_id_is_found_below_trace_fields_and_nowhere_else() {
        let check = |head: &[u8], expected| assert_eq!(find_id(head), expected);
        let ours = b"Received: from x\r\n\tby y\r\nX-Ringpost-Load: 0000002a-0000000000ff\r\n";
        check(ours, Some((RunId(42), 255)));
        check(&ours[..ours.len() - 3], None);
        check(b"Subject: X-Ringpost-Load: 0000002a-0000000000ff\r\n", None);
        check(b"X-Ringpost-Load: 0000002a 0000000000ff\r\n", None);
        check(b"X-Ringpost-Load: 0000002g-0000000000ff\r\n", None);
        check(b"", None);
    }

    #[test]
    fn a_message_is_intact_only_when_every_octet_below_the_trace_is() {
        let mix: SizeMix = "600,700".parse().expect("valid");
        let corpus = Corpus::new(&mix, None, "a@b.test", &[]).expect("generated");
        let mut sent = Vec::new();
        corpus.template(3).id_block.write(RunId(1), 13, &mut sent);
        sent.extend_from_slice(&corpus.template(3).content);
        let check = |received: &[u8], expected: bool| {
            assert_eq!(arrived_intact(received, &corpus, |sequence| sequence - 10), expected);
        };
        let traced = [b"Received: from x\r\n\tby y\r\n".as_slice(), &sent].concat();
        check(&sent, true);
        check(&traced, true);
        check(&traced[..traced.len() - 1], false);
        check(&[b"Subject: new\r\n".as_slice(), &sent].concat(), false);
        let mut changed = traced;
        let last = changed.len() - 3;
        changed[last] ^= 1;
        check(&changed, false);
    }

    #[test]
    fn every_newline_becomes_crlf() {
        let check = |bytes: &[u8], expected: &[u8]| assert_eq!(canonical(bytes), expected);
        check(b"a\nb\r\nc\rd", b"a\r\nb\r\nc\r\nd\r\n");
        check(b"\n\r\r\n", b"\r\n\r\n\r\n");
        check(b"", b"");
    }

    #[test]
    fn data_is_stuffed_and_ended() {
        let check = |content: &[u8], expected: &[u8]| {
            let mut out = Vec::new();
            stuff(content, &mut out);
            assert_eq!(out, expected);
        };
        check(b".a\r\n..\r\nb.\r\n", b"..a\r\n...\r\nb.\r\n.\r\n");
        check(b"", b".\r\n");
    }
}
