//! SELECT and EXAMINE, and what ends a selection (RFC 9051 §6.3.2 and §6.4, RFC 7162).

use super::listing::write_name;
use super::selected::{Enabled, Expunges, FlagItems, RANGES_AT_ONCE, Selected};
use super::session::{Ending, Session};
use crate::mailbox::codec::MailboxId;
use crate::mailbox::{Expunging, Mailbox, Refusal};
use crate::proto::imap::command::Tag;
use crate::proto::imap::response::{Code, Condition, PlainCode, write_tagged, write_untagged};
use crate::proto::imap::select::{Access, Qresync, Select};
use crate::proto::imap::set::NumberSet;
use crate::runtime::task;

impl Session {
    pub async fn on_select(&mut self, tag: &Tag, select: Select) -> Result<(), Ending> {
        if select.qresync.is_some() && !self.enabled.qresync {
            self.refuse(tag, Condition::Bad, None, "QRESYNC is not enabled");
            return Ok(());
        }
        if self.selected.take().is_some() {
            let code = Code::Plain(PlainCode::Closed);
            let text = "The mailbox before is closed";
            write_untagged(Condition::Ok, Some(&code), text, self.wire.out());
        }
        self.enabled.condstore |= select.condstore;
        let Some(id) = self.find_mailbox(&select.mailbox).await else {
            self.refuse_for(tag, Refusal::NoSuchMailbox);
            return Ok(());
        };
        let watch = self.store.watch(id);
        let (access, enabled, out) = (select.access, self.enabled, self.wire.out());
        let selected = self.store.read_mailbox(id, |mailbox| {
            let mut selected = Selected::new(mailbox, access, watch, enabled);
            write_selected(&mut selected, mailbox, enabled, out);
            selected
        });
        let Some(selected) = selected.await else {
            self.refuse_for(tag, Refusal::NoSuchMailbox);
            return Ok(());
        };
        self.selected = Some(Box::new(selected));
        if self.enabled.rev2 {
            let (name, form) = (select.mailbox.without_last_separator(), self.name_form());
            let out = self.wire.out();
            out.extend_from_slice(b"* LIST () \"/\" ");
            write_name(name.as_str(), form, out);
            out.extend_from_slice(b"\r\n");
        }
        if let Some(qresync) = &select.qresync {
            self.resynchronize(qresync).await?;
        }
        let (code, text) = match access {
            Access::ReadWrite => (PlainCode::ReadWrite, "Select completed"),
            Access::ReadOnly => (PlainCode::ReadOnly, "Examine completed"),
        };
        self.finish(tag, Expunges::Told, Some(&Code::Plain(code)), text).await
    }

    /// Tells what has happened since a client was here last (RFC 7162 §3.2.5). What it says of
    /// sequence numbers is not needed: vanished UIDs are remembered.
    async fn resynchronize(&mut self, qresync: &Qresync) -> Result<(), Ending> {
        let since = qresync.mod_sequence;
        let known = qresync.known_uids.as_ref().map(|known| known.resolve(0));
        let known = known.unwrap_or_else(|| [(1, u32::MAX)].into_iter().collect());
        let gone = self.look(|selected, mailbox, _| {
            let is_same = mailbox.uid_validity == qresync.uid_validity;
            is_same.then(|| selected.vanished_earlier(mailbox, since).intersection(&known))
        });
        let Some(gone) = gone.await? else { return Ok(()) };
        self.tell_vanished_earlier(&gone).await?;
        let items = FlagItems { flags: true, uid: true, modseq: true };
        self.tell_flags(&known, items, Some(since)).await
    }

    /// VANISHED (EARLIER) for what went before the client knew of this mailbox, or asked
    /// (RFC 7162 §3.2.10.1).
    pub async fn tell_vanished_earlier(&mut self, gone: &NumberSet) -> Result<(), Ending> {
        for ranges in gone.ranges().chunks(RANGES_AT_ONCE) {
            let out = self.wire.out();
            out.extend_from_slice(b"* VANISHED (EARLIER) ");
            ranges.iter().copied().collect::<NumberSet>().write(out);
            out.extend_from_slice(b"\r\n");
            self.wire.flush_if_long().await?;
        }
        Ok(())
    }

    /// FETCH responses about flags of messages that are there, or of those that were changed after
    /// a mod-sequence.
    pub async fn tell_flags(
        &mut self,
        uids: &NumberSet,
        items: FlagItems,
        since: Option<u64>,
    ) -> Result<(), Ending> {
        let mut next = Some(0);
        while let Some(from) = next {
            next = self
                .look(|selected, mailbox, out| {
                    let is_told = |modseq| since.is_none_or(|since| modseq > since);
                    let uids = (uids, from);
                    selected.write_flags_of(mailbox, uids, items, |it| is_told(it.modseq), out)
                })
                .await?;
            self.wire.flush_if_long().await?;
            if next.is_some() {
                task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Expunges what is `\Deleted`, without a word of it (RFC 9051 §6.4.1).
    pub async fn on_close(&mut self, tag: &Tag) -> Result<(), Ending> {
        let selected = self.selected.take().expect("checked");
        let mut expunged = NumberSet::default();
        if selected.access == Access::ReadWrite {
            match self.store.expunge(selected.id, Expunging::Deleted).await {
                Ok(uids) => expunged = uids,
                // Gone with its mailbox.
                Err(Refusal::NoSuchMailbox) => {}
                Err(refusal) => {
                    self.refuse_for(tag, refusal);
                    return Ok(());
                }
            }
        }
        // RFC 7162 §3.2.8.
        let highest = match self.enabled.qresync && !expunged.is_empty() {
            true => self.highest_modseq(selected.id).await,
            false => None,
        };
        let code = highest.map(Code::HighestModSeq);
        write_tagged(tag, Condition::Ok, code.as_ref(), "Close completed", self.wire.out());
        Ok(())
    }

    async fn highest_modseq(&self, mailbox: MailboxId) -> Option<u64> {
        self.store.read_mailbox(mailbox, |mailbox| mailbox.highest_modseq).await
    }
}

/// What SELECT says of every mailbox, flags before EXISTS: some clients want it so.
fn write_selected(selected: &mut Selected, mailbox: &Mailbox, enabled: Enabled, out: &mut Vec<u8>) {
    let status = mailbox.status();
    selected.write_flags(mailbox, out);
    selected.write_exists(mailbox, enabled, out);
    let mut say = |code: Code<'_>, text| write_untagged(Condition::Ok, Some(&code), text, out);
    if let Some(number) = status.first_unseen {
        say(Code::Unseen(number), "First unseen");
    }
    say(Code::UidValidity(status.uid_validity), "UIDs are valid");
    say(Code::UidNext(status.uid_next), "Predicted next UID");
    say(Code::HighestModSeq(status.highest_modseq.max(1)), "Highest");
    say(Code::MailboxId(&mailbox_id(mailbox.id)), "Mailbox");
}

/// A MAILBOXID (RFC 8474): the number of the mailbox, which its account keeps for ever.
pub fn mailbox_id(id: MailboxId) -> String {
    format!("F{:x}", id.0)
}

impl Enabled {
    /// What a FETCH response says of flags that were changed.
    pub fn flag_items(self, uid: bool) -> FlagItems {
        FlagItems { flags: true, uid: uid || self.qresync, modseq: self.condstore }
    }
}
