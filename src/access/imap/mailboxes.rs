//! CREATE, DELETE, RENAME, SUBSCRIBE, LIST, LSUB and STATUS (RFC 9051 §6.3).

use super::answer;
use super::listing::{Candidate, Names, Row, write_name};
use super::pattern::Pattern;
use super::select::mailbox_id;
use super::selected::{Expunges, write};
use super::session::{Ending, Session};
use crate::limits::IMAP_PATTERNS_BYTES_MAX;
use crate::mailbox::codec::{MailboxId, SpecialUses};
use crate::mailbox::{Mailbox, Partition, Refusal};
use crate::proto::imap::command::Tag;
use crate::proto::imap::list::{List, StatusItem};
use crate::proto::imap::mailbox::{HIERARCHY_SEPARATOR, MailboxName, SpecialUse};
use crate::proto::imap::response::{Code, Condition, PlainCode};
use crate::proto::imap::set::NumberSet;
use crate::runtime::task;

impl Session {
    pub async fn on_create(
        &mut self,
        tag: &Tag,
        name: &MailboxName,
        special_uses: Option<&[SpecialUse]>,
    ) -> Result<(), Ending> {
        let Some(special_uses) = special_uses else {
            // RFC 6154 §3.
            self.refuse(tag, Condition::No, Some(PlainCode::UseAttr), "Unknown special use");
            return Ok(());
        };
        let Some(name) = new_name(name) else {
            self.refuse_for(tag, Refusal::BadName);
            return Ok(());
        };
        let uses: SpecialUses = special_uses.iter().copied().collect();
        match self.store.create_mailbox(self.account, &name, uses).await {
            Ok(id) => {
                let id = mailbox_id(id);
                let code = Code::MailboxId(&id);
                self.finish(tag, Expunges::Told, Some(&code), "Create completed").await
            }
            Err(refusal) => {
                self.refuse_for(tag, refusal);
                Ok(())
            }
        }
    }

    pub async fn on_delete(&mut self, tag: &Tag, name: &MailboxName) -> Result<(), Ending> {
        let Some(id) = self.find_mailbox(name).await else {
            if self.has_inferiors(name).await {
                let code = Some(PlainCode::HasChildren);
                self.refuse(tag, Condition::No, code, "Mailboxes below it remain");
            } else {
                self.refuse_for(tag, Refusal::NoSuchMailbox);
            }
            return Ok(());
        };
        match self.store.delete_mailbox(id).await {
            Ok(()) => {
                // Whoever deletes what it has selected knows.
                self.selected = self.selected.take().filter(|selected| selected.id != id);
                self.finish(tag, Expunges::Told, None, "Delete completed").await
            }
            Err(refusal) => {
                self.refuse_for(tag, refusal);
                Ok(())
            }
        }
    }

    async fn has_inferiors(&self, name: &MailboxName) -> bool {
        let below = format!("{}{HIERARCHY_SEPARATOR}", name.without_last_separator().as_str());
        let account = self.account;
        let look = |partition: &Partition| {
            let account = partition.account(account)?;
            let (first, _) = account.mailboxes.range(Box::from(below.as_str())..).next()?;
            Some(first.starts_with(&below))
        };
        self.store.read(look).await.unwrap_or(false)
    }

    pub async fn on_rename(
        &mut self,
        tag: &Tag,
        from: &MailboxName,
        to: &MailboxName,
    ) -> Result<(), Ending> {
        let from = from.without_last_separator();
        let Some(to) = new_name(to) else {
            self.refuse_for(tag, Refusal::BadName);
            return Ok(());
        };
        let below = format!("{}{HIERARCHY_SEPARATOR}", from.as_str());
        if to.as_str().starts_with(&below) && !from.is_inbox() {
            let code = Some(PlainCode::Cannot);
            self.refuse(tag, Condition::No, code, "A mailbox cannot move below itself");
            return Ok(());
        }
        let renamed = match from.is_inbox() {
            true => self.move_inbox(&to).await,
            false => self.store.rename_mailbox(self.account, &from, &to).await,
        };
        match renamed {
            Ok(()) => self.finish(tag, Expunges::Told, None, "Rename completed").await,
            Err(refusal) => {
                self.refuse_for(tag, refusal);
                Ok(())
            }
        }
    }

    /// RENAME of INBOX moves its messages into another mailbox (RFC 9051 §6.3.6).
    async fn move_inbox(&self, to: &MailboxName) -> Result<(), Refusal> {
        let inbox = self.store.find_mailbox(self.account, INBOX).await;
        let inbox = inbox.ok_or(Refusal::NoSuchAccount)?;
        let target = self.store.create_mailbox(self.account, to, SpecialUses::default()).await?;
        let all: NumberSet = [(1, u32::MAX)].into_iter().collect();
        self.store.copy(inbox, target, &all, true).await.map(drop)
    }

    pub async fn on_subscribe(
        &mut self,
        tag: &Tag,
        name: &MailboxName,
        is_subscribed: bool,
    ) -> Result<(), Ending> {
        let name = name.without_last_separator();
        match self.store.subscribe(self.account, &name, is_subscribed).await {
            Ok(()) => {
                let text = if is_subscribed { "Subscribed" } else { "Unsubscribed" };
                self.finish(tag, Expunges::Told, None, text).await
            }
            Err(refusal) => {
                self.refuse_for(tag, refusal);
                Ok(())
            }
        }
    }

    pub async fn on_list(&mut self, tag: &Tag, list: &List) -> Result<(), Ending> {
        let form = self.name_form();
        if !list.is_extended && list.patterns == [""] {
            // What separates the levels (RFC 9051 §6.3.9).
            self.wire.out().extend_from_slice(b"* LIST (\\Noselect) \"/\" \"\"\r\n");
            return self.finish(tag, Expunges::Told, None, "List completed").await;
        }
        let texts = list.patterns.iter().map(|text| text.len() + list.reference.len());
        if texts.sum::<usize>() > IMAP_PATTERNS_BYTES_MAX {
            let code = Some(PlainCode::Limit);
            self.refuse(tag, Condition::No, code, "Too many patterns, or too long ones");
            return Ok(());
        }
        let patterns = list.patterns.iter().map(|text| Pattern::new(&list.reference, text));
        let patterns: Vec<Pattern> = patterns.collect();
        let names = self.names().await;
        let elsewhere = match list.selection.recursive_match {
            true => names.subscribed_elsewhere(&patterns),
            false => Vec::new(),
        };
        let cost = patterns.iter().map(Pattern::cost).sum();
        let choose = |candidate: Candidate| candidate.row(list, &patterns, &elsewhere);
        for row in choose_in_turns(names, cost, choose).await {
            row.write_list(form, list.is_extended, self.wire.out());
            if let (Some(id), false) = (row.mailbox, list.returns.status.is_empty()) {
                self.write_status(id, &row.name, &list.returns.status).await;
            }
            self.wire.flush_if_long().await?;
        }
        self.finish(tag, Expunges::Told, None, "List completed").await
    }

    pub async fn on_lsub(
        &mut self,
        tag: &Tag,
        reference: &str,
        pattern: &str,
    ) -> Result<(), Ending> {
        let form = self.name_form();
        let pattern = Pattern::new(reference, pattern);
        let names = self.names().await;
        let choose = |candidate: Candidate| candidate.lsub_row(&pattern);
        for row in choose_in_turns(names, pattern.cost(), choose).await {
            row.write_lsub(form, self.wire.out());
            self.wire.flush_if_long().await?;
        }
        self.finish(tag, Expunges::Told, None, "Lsub completed").await
    }

    async fn names(&self) -> Names {
        let account = self.account;
        let names = self.store.read(|partition| {
            partition.account(account).map(|account| Names::of(partition, account))
        });
        names.await.unwrap_or_default()
    }

    pub async fn on_status(
        &mut self,
        tag: &Tag,
        name: &MailboxName,
        items: &[StatusItem],
    ) -> Result<(), Ending> {
        if items.contains(&StatusItem::HighestModSeq) {
            self.enable_condstore().await?;
        }
        let is_there = match self.find_mailbox(name).await {
            Some(id) => self.write_status(id, name.as_str(), items).await,
            None => false,
        };
        if !is_there {
            self.refuse_for(tag, Refusal::NoSuchMailbox);
            return Ok(());
        }
        self.finish(tag, Expunges::Told, None, "Status completed").await
    }

    /// Appends the STATUS response; false where there is no such mailbox.
    async fn write_status(&mut self, id: MailboxId, name: &str, items: &[StatusItem]) -> bool {
        let (form, append_limit) = (self.name_form(), self.shared.message_bytes_max);
        let store = &self.store;
        let out = self.wire.out();
        let written = store.read_mailbox(id, |mailbox| {
            let told = Told { append_limit, recent_from: store.recent_from(id) };
            out.extend_from_slice(b"* STATUS ");
            write_name(name, form, out);
            for (index, item) in items.iter().enumerate() {
                out.extend_from_slice(if index == 0 { b" (" } else { b" " });
                write_status_item(mailbox, *item, &told, out);
            }
            out.extend_from_slice(b")\r\n");
        });
        written.await.is_some()
    }

    /// The mailbox of a name, which the client may have ended with a separator.
    pub async fn find_mailbox(&self, name: &MailboxName) -> Option<MailboxId> {
        let name = name.without_last_separator();
        self.store.find_mailbox(self.account, name.as_str()).await
    }

    /// Says why the store does not do it.
    pub fn refuse_for(&mut self, tag: &Tag, refusal: Refusal) {
        let (condition, code, text) = answer::of_refusal(refusal);
        self.refuse(tag, condition, code, text);
    }
}

/// The names that `choose` tells of. Others get a turn while many are compared.
async fn choose_in_turns(
    names: Names,
    cost: usize,
    choose: impl Fn(Candidate) -> Option<Row>,
) -> Vec<Row> {
    let at_once = (COMPARISON_STEPS / cost.max(1)).max(1);
    let mut rows = Vec::new();
    for (count, candidate) in names.into_candidates().enumerate() {
        rows.extend(choose(candidate));
        if count % at_once == at_once - 1 {
            task::yield_now().await;
        }
    }
    rows
}

/// What STATUS tells that the mailbox does not know.
struct Told {
    append_limit: u64,
    recent_from: u32,
}

fn write_status_item(mailbox: &Mailbox, item: StatusItem, told: &Told, out: &mut Vec<u8>) {
    let status = mailbox.status();
    out.extend_from_slice(item.as_str().as_bytes());
    let value: u64 = match item {
        StatusItem::Messages => status.exists.into(),
        StatusItem::Recent => {
            let known = mailbox.uids().partition_point(|uid| *uid < told.recent_from);
            (mailbox.uids().len() - known) as u64
        }
        StatusItem::UidNext => status.uid_next.into(),
        StatusItem::UidValidity => status.uid_validity.into(),
        StatusItem::Unseen => status.unseen.into(),
        StatusItem::Deleted => mailbox.deleted().into(),
        StatusItem::Size => status.bytes,
        StatusItem::HighestModSeq => status.highest_modseq.max(1),
        StatusItem::AppendLimit => told.append_limit,
        StatusItem::MailboxId => {
            return write(out, format_args!(" ({})", mailbox_id(mailbox.id)));
        }
    };
    write(out, format_args!(" {value}"));
}

/// The name of a mailbox that is to be: without a separator at its end, which says that others
/// will be below (RFC 9051 §6.3.4). `None` when a level of it is empty.
fn new_name(name: &MailboxName) -> Option<MailboxName> {
    let name = name.without_last_separator();
    let has_all_levels = name.as_str().split(HIERARCHY_SEPARATOR).all(|level| !level.is_empty());
    has_all_levels.then_some(name)
}

const INBOX: &str = "INBOX";
/// Steps of comparison before others get a turn: about a millisecond.
const COMPARISON_STEPS: usize = 1 << 20;
