//! BINARY and BINARY.SIZE (RFC 3516): the body of a part, its encoding undone.

use std::io::Write;
use std::ops::Range;

use super::octets::{MessageWriter, Trouble, part_of, slice_of};
use super::sink::Sink;
use crate::mailbox::{Content, ContentError};
use crate::proto::imap::fetch::Partial;
use crate::proto::mime::field::FieldName;
use crate::proto::mime::media_type::first_word;
use crate::proto::mime::structure::{PartKind, PartText, Structure};
use crate::proto::mime::transfer::Decoder;
use crate::runtime::task;

/// Where the body of a part lies, and how it is decoded.
pub(super) struct Encoded {
    octets: Range<u64>,
    decoder: Decoder,
}

impl Encoded {
    /// `None` when the message has no such part. The message as a whole is not encoded.
    pub fn find(structure: &Structure, part: &[u32]) -> Result<Option<Self>, Trouble> {
        let Some(index) = structure.find(part) else { return Ok(None) };
        let Some(octets) = structure.section(part, PartText::Whole) else { return Ok(None) };
        let is_decoded = !part.is_empty() && structure.parts[index].kind == PartKind::Leaf;
        let encoding = structure.field(index, FieldName::ContentTransferEncoding);
        let encoding = encoding.filter(|_| is_decoded).map(first_word).unwrap_or_default();
        let decoder = Decoder::from_name(&encoding).ok_or(Trouble::UnknownEncoding)?;
        Ok(Some(Self { octets, decoder }))
    }

    /// Octets once decoded.
    pub async fn size(&self, content: &Content) -> Result<u64, Trouble> {
        if self.decoder.is_identity() {
            return Ok(self.octets.end - self.octets.start);
        }
        let mut decoding = Decoding::new(self, content);
        let mut bytes = 0;
        while let Some(octets) = decoding.next().await? {
            bytes += octets.len() as u64;
        }
        Ok(bytes)
    }

    /// Appends a literal that may have NUL in it. What is short is decoded once; what is long is
    /// decoded twice, first for its length.
    pub async fn write<S: Sink>(
        &self,
        content: &Content,
        partial: Option<Partial>,
        writer: &mut MessageWriter<'_, S>,
    ) -> Result<(), Trouble> {
        let mut decoding = Decoding::new(self, content);
        let mut kept = Vec::new();
        let mut bytes = 0;
        while let Some(octets) = decoding.next().await? {
            bytes += octets.len() as u64;
            if bytes <= KEPT_BYTES_MAX {
                kept.extend_from_slice(octets);
            }
        }
        let meant = part_of(0..bytes, partial);
        // Writing into memory does not fail.
        let _ = write!(writer.out(), "~{{{}}}\r\n", meant.end - meant.start);
        if bytes <= KEPT_BYTES_MAX {
            return writer.push_binary(slice_of(&kept, partial)).await;
        }
        drop(kept);
        let mut decoding = Decoding::new(self, content);
        let mut at = 0;
        while at < meant.end {
            // As many octets as the first time: they do not change.
            let octets = decoding.next().await?.ok_or(ContentError::Malformed)?;
            let end = at + octets.len() as u64;
            let (from, to) = (meant.start.clamp(at, end) - at, meant.end.clamp(at, end) - at);
            writer.push_binary(&octets[from as usize..to as usize]).await?;
            at = end;
        }
        Ok(())
    }
}

/// A body on its way through its decoder.
struct Decoding<'c> {
    content: &'c Content,
    left: Range<u64>,
    decoder: Option<Decoder>,
    decoded: Vec<u8>,
}

impl<'c> Decoding<'c> {
    fn new(encoded: &Encoded, content: &'c Content) -> Self {
        let decoder = Some(encoded.decoder.clone());
        Self { content, left: encoded.octets.clone(), decoder, decoded: Vec::new() }
    }

    /// The next decoded octets, some at least unless they are the last; `None` behind them.
    async fn next(&mut self) -> Result<Option<&[u8]>, Trouble> {
        self.decoded.clear();
        while self.left.start < self.left.end {
            let piece = self.content.piece(self.left.start as u32).await?;
            let piece = piece.ok_or(ContentError::Malformed)?;
            let count = (self.left.end - self.left.start).min(DECODED_AT_ONCE);
            let count = count.min(piece.len() as u64);
            let decoder = self.decoder.as_mut().expect("there until the last octet");
            decoder.decode(&piece[..count as usize], &mut self.decoded);
            self.left.start += count;
            task::yield_now().await;
            if !self.decoded.is_empty() {
                return Ok(Some(&self.decoded));
            }
        }
        let Some(decoder) = self.decoder.take() else { return Ok(None) };
        decoder.finish(&mut self.decoded);
        Ok(Some(&self.decoded))
    }
}

/// Longer bodies are decoded twice rather than kept.
const KEPT_BYTES_MAX: u64 = 256 * 1024;
/// Octets decoded before others get a turn.
const DECODED_AT_ONCE: u64 = 128 * 1024;
