//! Summaries of messages: what lists and most searches need, so that they need no look at content.
//!
//! All of it is derived from the octets of the messages, and made anew where it is missing.

use std::ops::Range;
use std::rc::Rc;

use super::codec::{BodyId, MailboxId};
use super::content::{Content, ContentError};
use super::store::Store;
use crate::proto::imap::summary::{Summary, write_summary};
use crate::proto::mime::scan::Scanner;
use crate::runtime::task;

/// A summary in memory.
#[derive(Clone)]
pub struct KeptSummary {
    /// Octets of several may stand together.
    block: Rc<[u8]>,
    range: Range<usize>,
}

impl KeptSummary {
    /// `None` unless it is a summary, of a message of so many octets.
    fn new(block: Rc<[u8]>, range: Range<usize>, message_bytes: u32) -> Option<Self> {
        let summary = Summary::read(block.get(range.clone())?)?;
        (summary.message_bytes == message_bytes).then_some(Self { block, range })
    }

    pub fn get(&self) -> Summary<'_> {
        Summary::read(&self.block[self.range.clone()]).expect("it was one when it was kept")
    }
}

impl Store {
    /// The summary of a message, which may have been expunged for a while. Of this mailbox,
    /// `ahead` messages are likely to be asked for next, this one included.
    pub async fn summary(
        &self,
        mailbox: MailboxId,
        uid: u32,
        _body: BodyId,
        _ahead: usize,
    ) -> Result<KeptSummary, ContentError> {
        let content = self.content(mailbox, uid).await.ok_or(ContentError::Lost)?;
        let block: Rc<[u8]> = summarize(&content).await?.into();
        let range = 0..block.len();
        KeptSummary::new(block, range, content.bytes()).ok_or(ContentError::Malformed)
    }
}

/// The summary of content that is read for it.
async fn summarize(content: &Content) -> Result<Vec<u8>, ContentError> {
    let mut scanner = Scanner::default();
    let mut front = Vec::new();
    let mut at = 0;
    while let Some(piece) = content.piece(at).await? {
        scanner.feed(&piece);
        at += piece.len() as u32;
        let room = FRONT_BYTES - front.len();
        front.extend_from_slice(&piece[..piece.len().min(room)]);
        task::yield_now().await;
    }
    let mut out = Vec::new();
    write_summary(scanner.finish(), &front, 0, &mut out);
    Ok(out)
}

/// The beginning of a message, in which its first words are looked for.
const FRONT_BYTES: usize = 64 * 1024;
