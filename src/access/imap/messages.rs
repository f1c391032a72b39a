//! STORE, COPY, MOVE and EXPUNGE (RFC 9051 §6.4, RFC 7162).

use super::selected::{Expunges, FlagItems};
use super::session::{Ending, Session};
use super::view::NoSuchNumber;
use crate::mailbox::{Copied, Expunging};
use crate::proto::imap::command::{Messages, Numbering, Tag};
use crate::proto::imap::mailbox::MailboxName;
use crate::proto::imap::response::{Code, Condition, PlainCode, write_tagged, write_untagged};
use crate::proto::imap::select::Access;
use crate::proto::imap::set::NumberSet;
use crate::proto::imap::store::Store;

/// A command was refused, and the client was told.
pub struct Refused;

impl Session {
    /// UIDs of the messages that a command names, as ranges of which every message that the client
    /// knows is meant.
    pub async fn resolve(
        &mut self,
        tag: &Tag,
        numbering: Numbering,
        messages: &Messages,
    ) -> Result<Result<NumberSet, Refused>, Ending> {
        let Messages::Set(set) = messages else {
            let selected = self.selected.as_ref().expect("checked");
            return Ok(Ok(selected.saved.clone()));
        };
        let resolved =
            self.look(|selected, mailbox, _| selected.view.resolve(mailbox, numbering, set));
        match resolved.await? {
            Ok(uids) => Ok(Ok(uids)),
            Err(NoSuchNumber) => {
                self.refuse(tag, Condition::Bad, None, "No message has such a sequence number");
                Ok(Err(Refused))
            }
        }
    }

    /// Whether the selected mailbox may be changed; says so where it may not.
    fn may_change(&mut self, tag: &Tag) -> bool {
        let access = self.selected.as_ref().map(|selected| selected.access);
        let may_change = access == Some(Access::ReadWrite);
        if !may_change {
            self.refuse(tag, Condition::No, None, "The mailbox is open for reading only");
        }
        may_change
    }

    pub async fn on_store(&mut self, tag: &Tag, command: &Store) -> Result<(), Ending> {
        if !self.may_change(tag) {
            return Ok(());
        }
        if command.unchanged_since.is_some() {
            self.enable_condstore().await?;
        }
        let Store { numbering, change, flags, unchanged_since, .. } = command;
        let Ok(uids) = self.resolve(tag, *numbering, &command.messages).await? else {
            return Ok(());
        };
        let selected = self.selected.as_ref().expect("checked");
        let (id, author) = (selected.id, selected.watch.author());
        let change = (*change, flags);
        let stored = self.store.store_flags_as(Some(&author), id, &uids, change, *unchanged_since);
        let stored = match stored.await {
            Ok(stored) => stored,
            Err(refusal) => {
                self.refuse_for(tag, refusal);
                return Ok(());
            }
        };
        let is_uid = *numbering == Numbering::Uid;
        if !command.is_silent {
            let items = self.enabled.flag_items(is_uid);
            self.tell_flags(&uids.difference(&stored.modified), items, None).await?;
        } else if self.enabled.condstore {
            // Silence is about flags: the client must learn of its mod-sequence (RFC 7162 §3.1.3).
            let uid = is_uid || self.enabled.qresync;
            let items = FlagItems { flags: false, uid, modseq: true };
            self.tell_flags(&stored.changed, items, None).await?;
        }
        let expunges = expunges_of(*numbering);
        if stored.modified.is_empty() {
            return self.finish(tag, expunges, None, "Store completed").await;
        }
        let modified = stored.modified;
        let numbers = match is_uid {
            true => modified,
            false => self.look(|it, mailbox, _| it.view.numbers_of(mailbox, &modified)).await?,
        };
        let code = Code::Modified(&numbers);
        self.finish(tag, expunges, Some(&code), "Some were changed since").await
    }

    pub async fn on_copy(
        &mut self,
        tag: &Tag,
        numbering: Numbering,
        messages: &Messages,
        name: &MailboxName,
    ) -> Result<(), Ending> {
        let Ok(copied) = self.transfer(tag, numbering, messages, name, false).await? else {
            return Ok(());
        };
        let code = copy_uid(&copied);
        self.finish(tag, expunges_of(numbering), code.as_ref(), "Copy completed").await
    }

    pub async fn on_move(
        &mut self,
        tag: &Tag,
        numbering: Numbering,
        messages: &Messages,
        name: &MailboxName,
    ) -> Result<(), Ending> {
        if !self.may_change(tag) {
            return Ok(());
        }
        let Ok(copied) = self.transfer(tag, numbering, messages, name, true).await? else {
            return Ok(());
        };
        let code = copy_uid(&copied);
        if code.is_some() {
            // Before the messages are told to be gone (RFC 6851 §4.3).
            write_untagged(Condition::Ok, code.as_ref(), "Moved", self.wire.out());
        }
        self.finish_expunge(tag, code.is_some(), "Move completed").await
    }

    async fn transfer(
        &mut self,
        tag: &Tag,
        numbering: Numbering,
        messages: &Messages,
        name: &MailboxName,
        is_move: bool,
    ) -> Result<Result<Copied, Refused>, Ending> {
        let Ok(uids) = self.resolve(tag, numbering, messages).await? else {
            return Ok(Err(Refused));
        };
        let selected = self.selected.as_ref().expect("checked");
        let (id, view) = (selected.id, &selected.view);
        let has_gone = view.has_gone() && !view.gone().intersection(&uids).is_empty();
        if has_gone && numbering == Numbering::Sequence {
            // All or none (RFC 9051 §6.4.7).
            let code = Some(PlainCode::ExpungeIssued);
            self.refuse(tag, Condition::No, code, "Some of the messages are gone");
            return Ok(Err(Refused));
        }
        let Some(target) = self.find_mailbox(name).await else {
            let code = Some(PlainCode::TryCreate);
            self.refuse(tag, Condition::No, code, "There is no such mailbox");
            return Ok(Err(Refused));
        };
        match self.store.copy(id, target, &uids, is_move).await {
            Ok(copied) => Ok(Ok(copied)),
            Err(refusal) => {
                self.refuse_for(tag, refusal);
                Ok(Err(Refused))
            }
        }
    }

    /// EXPUNGE, or UID EXPUNGE of some messages (RFC 4315).
    pub async fn on_expunge(
        &mut self,
        tag: &Tag,
        messages: Option<&Messages>,
    ) -> Result<(), Ending> {
        if !self.may_change(tag) {
            return Ok(());
        }
        let id = self.selected.as_ref().expect("checked").id;
        let expunged = match messages {
            None => self.store.expunge(id, Expunging::Deleted).await,
            Some(messages) => {
                let Ok(uids) = self.resolve(tag, Numbering::Uid, messages).await? else {
                    return Ok(());
                };
                self.store.expunge(id, Expunging::DeletedOf(&uids)).await
            }
        };
        match expunged {
            Ok(uids) => self.finish_expunge(tag, !uids.is_empty(), "Expunge completed").await,
            Err(refusal) => {
                self.refuse_for(tag, refusal);
                Ok(())
            }
        }
    }

    /// Tells what is gone, and up to which mod-sequence the client knows all (RFC 7162 §3.2.7).
    async fn finish_expunge(
        &mut self,
        tag: &Tag,
        has_expunged: bool,
        text: &str,
    ) -> Result<(), Ending> {
        self.tell(Expunges::Told).await?;
        let told = self.selected.as_ref().map(|selected| selected.told_modseq);
        let told = told.filter(|_| has_expunged && self.enabled.qresync);
        let code = told.map(|modseq| Code::HighestModSeq(modseq.max(1)));
        write_tagged(tag, Condition::Ok, code.as_ref(), text, self.wire.out());
        Ok(())
    }
}

/// `None` where nothing was copied.
fn copy_uid(copied: &Copied) -> Option<Code<'_>> {
    let Copied { uid_validity, source_uids: source, target_uids: target } = copied;
    let code = Code::CopyUid { uid_validity: *uid_validity, source, target };
    (!source.is_empty()).then_some(code)
}

/// RFC 9051 §7.5.1.
pub fn expunges_of(numbering: Numbering) -> Expunges {
    match numbering {
        Numbering::Sequence => Expunges::Later,
        Numbering::Uid => Expunges::Told,
    }
}
