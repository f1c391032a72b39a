//! A message into the mailboxes of this server, each time once.

use std::rc::Rc;

use super::super::Inner;
use super::delivery_key;
use crate::config::OverQuota;
use crate::mail::{Envelope, Recipient, Reply, status};
use crate::mailbox::codec::{AccountId, DeliveryKey};
use crate::mailbox::{Committed, Delivered, Delivery, InternalDate, PostDraft, Refusal, Target};
use crate::proto::imap::flag::Flags;
use crate::proto::message::delivered::Delivered as DeliveredFields;
use crate::queue::{self, LoadError, Message, Prepared};
use crate::runtime::{clock, task};

/// What becomes of a message, by position in its recipients still open.
struct Plan {
    /// `None` while nothing is known that is not good.
    replies: Vec<Option<Reply>>,
    shares: Vec<Share>,
    /// What goes on to somewhere else: its position, and where.
    onward: Vec<(usize, Box<str>)>,
}

/// What one partition gets.
struct Share {
    partition: u16,
    positions: Vec<usize>,
    deliveries: Vec<Delivery>,
}

impl Inner {
    /// Gives a message to the mailboxes of its recipients; what became of each, and what is to go
    /// into the queue when that is recorded.
    pub(super) async fn to_mailboxes(
        &self,
        message: &Rc<Message>,
    ) -> Result<(Vec<Reply>, Option<Prepared>), LoadError> {
        let Plan { mut replies, shares, onward } = self.plan(message);
        let over_quota = self.config.borrow().mailboxes.over_quota;
        let shares = self.fill(message, shares).await?;
        let commits = shares.into_iter().map(|(share, draft)| async move {
            let Share { positions, deliveries, .. } = share;
            let committed = match draft {
                Ok(draft) => draft.commit(deliveries).await,
                Err(refusal) => Err(refusal),
            };
            (positions, committed)
        });
        for (positions, committed) in task::join_all(commits).await {
            self.note(&mut replies, &positions, committed, over_quota);
        }
        let onward = self.send_on(message, &mut replies, onward).await?;
        Ok((replies.into_iter().map(|reply| reply.unwrap_or(SENT_ON)).collect(), onward))
    }

    fn plan(&self, message: &Message) -> Plan {
        let envelope = &message.envelope;
        let count = message.recipient_indexes.len();
        let mut plan = Plan { replies: vec![None; count], shares: Vec::new(), onward: Vec::new() };
        let (finder, accounts) = (self.finder.borrow(), self.accounts.borrow());
        for (position, index) in message.recipient_indexes.iter().enumerate() {
            let recipient = &envelope.recipients[usize::from(*index)];
            let targets = match finder.local.resolve(&accounts, &recipient.address) {
                Some(Ok(targets)) => targets,
                Some(Err(reply)) => {
                    plan.replies[position] = Some(reply);
                    continue;
                }
                None => {
                    plan.replies[position] = Some(NOT_LOCAL);
                    continue;
                }
            };
            for target in targets {
                let Some(account) = target.account else {
                    plan.onward.push((position, target.address));
                    continue;
                };
                let key = delivery_key(self.queue.store_id(), message.id, &account.name);
                let delivery = Delivery {
                    to: Target::Inbox(AccountId(account.id)),
                    prefix: prefix(envelope, recipient, &target.address),
                    date: InternalDate::utc((clock::unix_ms() / 1000) as u32),
                    flags: Flags::default(),
                    key: Some(DeliveryKey(key)),
                };
                plan.add(account.partition, position, delivery);
            }
        }
        plan
    }

    /// Gives each partition the content, which is read once.
    async fn fill(
        &self,
        message: &Rc<Message>,
        shares: Vec<Share>,
    ) -> Result<Vec<(Share, Result<PostDraft, Refusal>)>, LoadError> {
        let begin = |share: Share| {
            let draft = self.post.begin(share.partition, message.envelope.content_bytes);
            (share, draft)
        };
        let mut shares: Vec<_> = shares.into_iter().map(begin).collect();
        let has_draft = |shares: &[(Share, Result<PostDraft, Refusal>)]| {
            shares.iter().any(|(_, draft)| draft.is_ok())
        };
        for chunk_index in 0..message.content.chunk_count() {
            if !has_draft(&shares) {
                break;
            }
            let octets = self.queue.load_chunk(message, chunk_index).await?;
            for (_, place) in &mut shares {
                if let Ok(draft) = place
                    && let Err(refusal) = append(draft, &octets).await
                {
                    *place = Err(refusal);
                }
            }
        }
        Ok(shares)
    }

    /// Takes down what became of a share.
    fn note(
        &self,
        replies: &mut [Option<Reply>],
        positions: &[usize],
        committed: Committed,
        over_quota: OverQuota,
    ) {
        let told = match committed {
            Ok(told) => told,
            Err(refusal) => vec![Err(refusal); positions.len()],
        };
        let numbers = &self.metrics.delivery;
        for (position, told) in positions.iter().zip(told) {
            match told {
                Ok(Delivered::As { .. }) => numbers.mailbox_deliveries.add(1),
                Ok(Delivered::Before) => numbers.mailbox_repeats.add(1),
                Err(_) => {}
            }
            let reply = told.map_or_else(|refusal| refusal.reply(over_quota), Delivered::reply);
            let place = &mut replies[*position];
            let is_worse = place.as_ref().is_none_or(|known| reply.is_worse_than(known));
            if is_worse {
                *place = Some(reply);
            }
        }
    }

    /// The message for what aliases lead on to, where all else of a recipient is done.
    async fn send_on(
        &self,
        message: &Rc<Message>,
        replies: &mut [Option<Reply>],
        onward: Vec<(usize, Box<str>)>,
    ) -> Result<Option<Prepared>, LoadError> {
        let is_done = |reply: &Option<Reply>| reply.as_ref().is_none_or(Reply::is_positive);
        let onward: Vec<_> = onward.into_iter().filter(|(at, _)| is_done(&replies[*at])).collect();
        if onward.is_empty() {
            return Ok(None);
        }
        let recipients = onward.iter().map(|(position, address)| {
            let index = usize::from(message.recipient_indexes[*position]);
            Recipient { address: address.clone(), ..message.envelope.recipients[index].clone() }
        });
        match self.prepare_again(message, recipients.collect()).await? {
            Ok(prepared) => Ok(Some(prepared)),
            Err(refusal) => {
                let reply = refusal.reply();
                onward.iter().for_each(|(position, _)| replies[*position] = Some(reply.clone()));
                Ok(None)
            }
        }
    }

    /// The message once more, for others.
    async fn prepare_again(
        &self,
        message: &Rc<Message>,
        recipients: Vec<Recipient>,
    ) -> Result<Result<Prepared, queue::Refusal>, LoadError> {
        let mut draft = match self.queue.begin(message.envelope.content_bytes) {
            Ok(draft) => draft,
            Err(refusal) => return Ok(Err(refusal)),
        };
        for chunk_index in 0..message.content.chunk_count() {
            let octets = self.queue.load_chunk(message, chunk_index).await?;
            let mut rest: &[u8] = &octets;
            while !rest.is_empty() {
                let taken = draft.append(rest);
                rest = &rest[taken..];
                if let Err(refusal) = draft.room().await {
                    return Ok(Err(refusal));
                }
            }
        }
        let accepted_ms = clock::unix_ms();
        let envelope = Envelope { recipients, accepted_ms, ..Envelope::clone(&message.envelope) };
        Ok(draft.prepare(envelope).await)
    }
}

impl Plan {
    fn add(&mut self, partition: u16, position: usize, delivery: Delivery) {
        let known = self.shares.iter_mut().find(|share| share.partition == partition);
        match known {
            Some(share) => {
                share.positions.push(position);
                share.deliveries.push(delivery);
            }
            None => {
                let (positions, deliveries) = (vec![position], vec![delivery]);
                self.shares.push(Share { partition, positions, deliveries });
            }
        }
    }
}

/// What stands in front of the content in the mailbox of `address`.
fn prefix(envelope: &Envelope, recipient: &Recipient, address: &str) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(128 + envelope.header_prefix.len());
    DeliveredFields {
        reverse_path: &envelope.reverse_path,
        recipient: address,
        original_recipient: recipient.original_recipient.as_deref(),
    }
    .write(&mut prefix);
    prefix.extend_from_slice(&envelope.header_prefix);
    prefix
}

async fn append(draft: &mut PostDraft, octets: &[u8]) -> Result<(), Refusal> {
    let mut rest = octets;
    while !rest.is_empty() {
        let taken = draft.append(rest);
        rest = &rest[taken..];
        if !rest.is_empty() {
            draft.room().await?;
        }
    }
    Ok(())
}

const SENT_ON: Reply = Reply::new(250, status::OK, "Sent on to where the alias leads");
const NOT_LOCAL: Reply =
    Reply::new(451, status::BAD_CONFIGURATION, "The domain is not local any more");
