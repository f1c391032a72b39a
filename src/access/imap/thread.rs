//! THREAD (RFC 5256).

use super::search::{Scope, SearchError, run as search};
use super::sort::{entries, sent_s, summaries};
use crate::mailbox::{Entry, KeptSummary};
use crate::proto::imap::base_subject::base_subject;
use crate::proto::imap::command::Numbering;
use crate::proto::imap::search::{Thread, ThreadAlgorithm};
use crate::proto::imap::threading::{Message, message_ids, ordered_subject, references};
use crate::proto::mime::casemap::Folder;
use crate::proto::mime::field::FieldName;
use crate::proto::mime::stored::stored_fields;
use crate::runtime::{inbox, task, thread};

/// Appends the response to THREAD.
pub async fn run(
    scope: &Scope<'_>,
    command: &Thread,
    out: &mut Vec<u8>,
) -> Result<(), SearchError> {
    let found = search(scope, &command.criteria).await?;
    let mut folder = Folder::default();
    let mut messages = Vec::with_capacity(found.uids.count() as usize);
    let mut next = Some(0);
    while let Some(uid_from) = next {
        let (entries, next_uid) = entries(scope, &found.uids, uid_from).await?;
        next = next_uid;
        let summaries = summaries(scope, &entries).await;
        let uids = entries.iter().map(|it| it.entry.uid);
        let numbers: Vec<Option<u32>> = match command.numbering {
            Numbering::Uid => uids.map(Some).collect(),
            Numbering::Sequence => {
                let numbers = scope
                    .read(|_, mailbox, view| uids.map(|uid| view.number(mailbox, uid)).collect());
                numbers.await?
            }
        };
        let known = numbers.into_iter().zip(&entries).zip(&summaries);
        messages.extend(known.filter_map(|((number, candidate), summary)| {
            Some(message(number?, &candidate.entry, summary.as_ref(), &mut folder))
        }));
        task::yield_now().await;
    }
    let algorithm = command.algorithm;
    let threads = on_thread(messages.len(), move || {
        let mut threads = Vec::new();
        match algorithm {
            ThreadAlgorithm::OrderedSubject => ordered_subject(&messages, &mut threads),
            ThreadAlgorithm::References => references(&messages, &mut threads),
        }
        threads
    });
    let threads = threads.await?;
    out.extend_from_slice(b"* THREAD");
    out.extend((!threads.is_empty()).then_some(b' '));
    out.extend_from_slice(&threads);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

fn message(
    number: u32,
    entry: &Entry,
    summary: Option<&KeptSummary>,
    folder: &mut Folder,
) -> Message {
    let (mut date, mut subject, mut id, mut references, mut in_reply_to) =
        (None, None, None, None, None);
    for field in summary.map(|it| stored_fields(it.get().structure)).into_iter().flatten() {
        // The first of each counts.
        match field.name {
            FieldName::Date => date.get_or_insert(field.body),
            FieldName::Subject => subject.get_or_insert(field.body),
            FieldName::MessageId => id.get_or_insert(field.body),
            FieldName::References => references.get_or_insert(field.body),
            FieldName::InReplyTo => in_reply_to.get_or_insert(field.body),
            _ => continue,
        };
    }
    let base = base_subject(subject.unwrap_or_default());
    let mut before = references.map(message_ids).unwrap_or_default();
    if before.is_empty() {
        // Only the first is sure to be one (RFC 5256 §3).
        before = in_reply_to.map(message_ids).unwrap_or_default();
        before.truncate(1);
    }
    Message {
        number,
        sent_s: sent_s(date, entry),
        subject: folder.folded(base.text.as_bytes()).into(),
        is_reply: base.is_reply,
        id: id.map(message_ids).and_then(|ids| ids.first().copied()),
        references: before,
    }
}

/// What `work` over so many messages makes; where they are many, on a thread of its own.
pub(super) async fn on_thread<T: Send + 'static>(
    message_count: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SearchError> {
    if message_count <= HERE_MAX {
        return Ok(work());
    }
    let (sender, mut result) = inbox::inbox(1);
    let started = thread::spawn("imap-order", None, move || {
        // It has room for the one.
        let _ = sender.try_send(work());
    });
    started.map_err(|_| SearchError::Busy)?;
    Ok(result.recv().await)
}

/// Messages that are put in order in less than a millisecond or two.
const HERE_MAX: usize = 256;
