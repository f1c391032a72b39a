//! Octets of messages on their way to a client: exactly as many as were announced.

use std::io::{self, Write};
use std::ops::Range;

use super::sink::{OUT_BYTES, Sink};
use crate::mailbox::{Content, ContentError};
use crate::proto::imap::fetch::Partial;
use crate::runtime::task;

/// Why a message cannot be sent.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Its octets cannot be had.
    Content(ContentError),
    /// It is in an encoding that nobody knows.
    UnknownEncoding,
    Client(io::Error),
}

impl From<ContentError> for Trouble {
    fn from(error: ContentError) -> Self {
        Self::Content(error)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Client(error)
    }
}

/// Writes the response about one message.
pub(super) struct MessageWriter<'s, S> {
    sink: &'s mut S,
    /// Where the response begins in what has not been sent.
    start: usize,
    /// Its beginning is on its way.
    is_under_way: bool,
}

impl<'s, S: Sink> MessageWriter<'s, S> {
    pub fn new(sink: &'s mut S) -> Self {
        let start = sink.out().len();
        Self { sink, start, is_under_way: false }
    }

    pub fn out(&mut self) -> &mut Vec<u8> {
        self.sink.out()
    }

    /// Takes back what was written of the message; false when some was sent already.
    pub fn take_back(self) -> bool {
        if !self.is_under_way {
            self.sink.out().truncate(self.start);
        }
        !self.is_under_way
    }

    /// Appends a literal of octets that are at hand. NUL cannot be sent and becomes `?`.
    pub fn write_literal(&mut self, octets: &[u8]) {
        let out = self.out();
        // Writing into memory does not fail.
        let _ = write!(out, "{{{}}}\r\n", octets.len());
        push_without_nul(octets, out);
    }

    /// Appends a literal of these octets of a message. Nothing is written before the first of them
    /// have been read.
    pub async fn write_content(
        &mut self,
        content: &Content,
        octets: Range<u64>,
    ) -> Result<(), Trouble> {
        if octets.end > content.bytes().into() {
            return Err(ContentError::Malformed.into());
        }
        let mut at = octets.start;
        let mut piece = match at < octets.end {
            true => content.piece(at as u32).await?,
            false => None,
        };
        let _ = write!(self.out(), "{{{}}}\r\n", octets.end - octets.start);
        while at < octets.end {
            let whole = piece.take().ok_or(ContentError::Malformed)?;
            let count = (whole.len() as u64).min(octets.end - at);
            self.push(&whole[..count as usize]).await?;
            at += count;
            if at < octets.end {
                piece = content.piece(at as u32).await?;
            }
        }
        Ok(())
    }

    /// Sends octets of a literal that has been announced; few are gathered, many go as they stand.
    async fn push(&mut self, octets: &[u8]) -> Result<(), Trouble> {
        if octets.len() <= COPIED_BYTES_MAX || memchr::memchr(0, octets).is_some() {
            push_without_nul(octets, self.out());
            return self.send_if_much().await;
        }
        self.send(octets).await?;
        task::yield_now().await;
        Ok(())
    }

    /// Appends octets of a literal that has been announced and may have NUL in it.
    pub async fn push_binary(&mut self, octets: &[u8]) -> Result<(), Trouble> {
        self.out().extend_from_slice(octets);
        self.send_if_much().await
    }

    async fn send_if_much(&mut self) -> Result<(), Trouble> {
        if self.out().len() >= OUT_BYTES { self.send(&[]).await } else { Ok(()) }
    }

    async fn send(&mut self, octets: &[u8]) -> Result<(), Trouble> {
        self.is_under_way = true;
        Ok(self.sink.send(octets).await?)
    }
}

fn push_without_nul(octets: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(octets);
    if memchr::memchr(0, octets).is_some() {
        out[start..].iter_mut().filter(|octet| **octet == 0).for_each(|octet| *octet = b'?');
    }
}

/// What of `octets` a client asks for.
pub(super) fn part_of(octets: Range<u64>, partial: Option<Partial>) -> Range<u64> {
    partial.map_or(octets.clone(), |partial| partial.of(octets))
}

/// What of octets at hand a client asks for.
pub(super) fn slice_of(octets: &[u8], partial: Option<Partial>) -> &[u8] {
    let range = part_of(0..octets.len() as u64, partial);
    &octets[range.start as usize..range.end as usize]
}

/// Fewer octets are copied rather than sent by themselves: a write costs more.
const COPIED_BYTES_MAX: usize = 16 * 1024;
