//! Content on its way straight into mailboxes, and an answer for each recipient (RFC 2033).
//!
//! One draft for each partition that has recipients, and one in the queue where an alias leads on
//! to somewhere else. Each gets the octets as they come.

use std::collections::HashMap;

use super::Inner;
use super::recipients::{self, Named, Recipients};
use crate::config::OverQuota;
use crate::mail::{Envelope, Reply};
use crate::mailbox::codec::AccountId;
use crate::mailbox::{Committed, Delivered, Delivery, InternalDate, PostDraft, Target as Mailbox};
use crate::proto::imap::flag::Flags;
use crate::proto::message::delivered::Delivered as DeliveredFields;
use crate::queue::Draft;
use crate::routing::local::Target;
use crate::runtime::task;

/// A recipient that was answered 250, and who gets its mail.
pub(super) struct Accepted {
    pub named: Named,
    pub targets: Vec<Target>,
}

/// Adds a recipient, unless the message would go to too many.
pub(super) fn accept(
    accepted: &mut Vec<Accepted>,
    named: Named,
    targets: Vec<Target>,
) -> Result<(), Reply> {
    let count: usize = accepted.iter().map(|it| it.targets.len()).sum();
    recipients::check_room(count, targets.len())?;
    accepted.push(Accepted { named, targets });
    Ok(())
}

/// Content under way.
pub(super) struct Delivering {
    fillings: Vec<Filling>,
    over_quota: OverQuota,
}

struct Filling {
    sink: Sink,
    /// What the sink had no room for.
    overflow: Vec<u8>,
    /// It takes nothing any more.
    refusal: Option<Reply>,
}

enum Sink {
    /// Nothing was begun; `refusal` says why.
    None(Place),
    Partition(u16, PostDraft),
    Queue(Draft),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Partition(u16),
    Queue,
}

/// What is said of the message in front of its content, for one recipient: by its mailbox text.
pub(super) type TraceOf<'t> = &'t dyn Fn(&str, &mut Vec<u8>);

impl Delivering {
    /// Begins a draft for each place that has recipients; an error where there is none.
    pub fn begin(
        inner: &Inner,
        accepted: &[Accepted],
        declared_bytes: u64,
        over_quota: OverQuota,
    ) -> Result<Delivering, Reply> {
        let mut fillings: Vec<Filling> = Vec::new();
        for target in accepted.iter().flat_map(|it| &it.targets) {
            let place = Place::of(target);
            if fillings.iter().any(|filling| filling.sink.place() == place) {
                continue;
            }
            let sink = match place {
                Place::Partition(partition) => inner
                    .post
                    .begin(partition, declared_bytes)
                    .map(|draft| Sink::Partition(partition, draft))
                    .map_err(|refusal| refusal.reply(over_quota)),
                Place::Queue => {
                    let draft = inner.queue.begin(declared_bytes);
                    draft.map(Sink::Queue).map_err(|refusal| refusal.reply())
                }
            };
            fillings.push(match sink {
                Ok(sink) => Filling { sink, overflow: Vec::new(), refusal: None },
                Err(reply) => {
                    let (sink, overflow) = (Sink::None(place), Vec::new());
                    Filling { sink, overflow, refusal: Some(reply) }
                }
            });
        }
        match fillings.iter().all(|filling| filling.refusal.is_some()) {
            true => Err(fillings.remove(0).refusal.expect("all are refused")),
            false => Ok(Delivering { fillings, over_quota }),
        }
    }

    /// Takes a piece; returns whether room has to be made.
    pub fn append(&mut self, piece: &[u8]) -> bool {
        let mut is_full = false;
        for filling in self.fillings.iter_mut().filter(|it| it.refusal.is_none()) {
            let taken = filling.sink.append(piece);
            filling.overflow.extend_from_slice(&piece[taken..]);
            is_full |= !filling.overflow.is_empty();
        }
        is_full
    }

    /// Makes room, and gives everybody what there was no room for.
    pub async fn room(&mut self) {
        for filling in &mut self.fillings {
            let overflow = std::mem::take(&mut filling.overflow);
            let mut rest = overflow.as_slice();
            while !rest.is_empty() && filling.refusal.is_none() {
                match filling.sink.room(self.over_quota).await {
                    Ok(()) => rest = &rest[filling.sink.append(rest)..],
                    Err(reply) => filling.refusal = Some(reply),
                }
            }
        }
    }

    /// Delivers, and puts into the queue what goes on; resolves when all is durable, with the
    /// answer for each of `accepted`. `envelope` is that of the message, without recipients.
    pub async fn commit(
        self,
        accepted: Vec<Accepted>,
        envelope: Envelope,
        trace_of: TraceOf<'_>,
    ) -> Vec<Reply> {
        let Delivering { fillings, over_quota } = self;
        let mut answers = vec![None; accepted.len()];
        let mut commits = Vec::new();
        for Filling { sink, refusal, .. } in fillings {
            let place = sink.place();
            match (sink, refusal) {
                (Sink::Partition(partition, draft), None) => {
                    let share = Share::of(&accepted, partition, &envelope, trace_of);
                    let positions = share.positions;
                    let committed = draft.commit(share.deliveries);
                    commits.push(async move { (positions, committed.await) });
                }
                (Sink::Queue(draft), None) => {
                    let reply = send_on(draft, &accepted, &envelope, trace_of).await;
                    note(&mut answers, &positions_of(&accepted, Place::Queue), &reply);
                }
                (_, refusal) => {
                    let reply = refusal.expect("what was not begun was refused");
                    note(&mut answers, &positions_of(&accepted, place), &reply);
                }
            }
        }
        for (positions, committed) in task::join_all(commits).await {
            note_all(&mut answers, &positions, committed, over_quota);
        }
        let answers = answers.into_iter().map(|it| it.expect("a recipient leads to somebody"));
        answers.collect()
    }
}

impl Place {
    fn of(target: &Target) -> Place {
        match &target.account {
            Some(account) => Place::Partition(account.partition),
            None => Place::Queue,
        }
    }
}

impl Sink {
    fn place(&self) -> Place {
        match self {
            Sink::None(place) => *place,
            Sink::Partition(partition, _) => Place::Partition(*partition),
            Sink::Queue(_) => Place::Queue,
        }
    }

    fn append(&mut self, piece: &[u8]) -> usize {
        match self {
            Sink::None(_) => piece.len(),
            Sink::Partition(_, draft) => draft.append(piece),
            Sink::Queue(draft) => draft.append(piece),
        }
    }

    async fn room(&mut self, over_quota: OverQuota) -> Result<(), Reply> {
        match self {
            Sink::None(_) => Ok(()),
            Sink::Partition(_, draft) => {
                draft.room().await.map_err(|refusal| refusal.reply(over_quota))
            }
            Sink::Queue(draft) => draft.room().await.map_err(|refusal| refusal.reply()),
        }
    }
}

/// What one partition gets: each account once, however often it is meant.
struct Share {
    deliveries: Vec<Delivery>,
    /// By delivery: positions of the recipients that it is for.
    positions: Vec<Vec<usize>>,
}

impl Share {
    fn of(
        accepted: &[Accepted],
        partition: u16,
        envelope: &Envelope,
        trace_of: TraceOf<'_>,
    ) -> Share {
        let mut share = Share { deliveries: Vec::new(), positions: Vec::new() };
        let mut by_account: HashMap<u64, usize> = HashMap::new();
        for (position, Accepted { named, targets }) in accepted.iter().enumerate() {
            for Target { address, account } in targets {
                let Some(account) = account.as_ref().filter(|it| it.partition == partition) else {
                    continue;
                };
                let index = *by_account.entry(account.id).or_insert(share.deliveries.len());
                if index < share.deliveries.len() {
                    share.positions[index].push(position);
                    continue;
                }
                let original_recipient = named.original_of(address);
                let mut prefix = Vec::with_capacity(512);
                DeliveredFields {
                    reverse_path: &envelope.reverse_path,
                    recipient: address,
                    original_recipient: original_recipient.as_deref(),
                }
                .write(&mut prefix);
                trace_of(address, &mut prefix);
                share.positions.push(vec![position]);
                share.deliveries.push(Delivery {
                    to: Mailbox::Inbox(AccountId(account.id)),
                    prefix,
                    date: InternalDate::utc((envelope.accepted_ms / 1000) as u32),
                    flags: Flags::default(),
                    key: None,
                });
            }
        }
        share
    }
}

fn positions_of(accepted: &[Accepted], place: Place) -> Vec<usize> {
    let leads_there = |it: &Accepted| it.targets.iter().any(|target| Place::of(target) == place);
    let positions = accepted.iter().enumerate().filter(|(_, it)| leads_there(it));
    positions.map(|(position, _)| position).collect()
}

/// Puts a message into the queue for those whose mailboxes are somewhere else.
async fn send_on(
    draft: Draft,
    accepted: &[Accepted],
    envelope: &Envelope,
    trace_of: TraceOf<'_>,
) -> Reply {
    let mut recipients = Recipients::default();
    for Accepted { named, targets } in accepted {
        let onward = targets.iter().filter(|target| target.account.is_none()).cloned();
        if let Err(reply) = recipients.add_found(named, onward.collect()) {
            return reply;
        }
    }
    let mut envelope = envelope.clone();
    envelope.recipients = recipients.into_all();
    trace_of("", &mut envelope.header_prefix);
    match draft.commit(envelope).await {
        Ok(id) => super::session::queued(id),
        Err(refusal) => refusal.reply(),
    }
}

fn note_all(
    answers: &mut [Option<Reply>],
    positions: &[Vec<usize>],
    committed: Committed,
    over_quota: OverQuota,
) {
    let told = match committed {
        Ok(told) => told,
        Err(refusal) => vec![Err(refusal); positions.len()],
    };
    for (positions, told) in positions.iter().zip(told) {
        let reply = told.map_or_else(|refusal| refusal.reply(over_quota), Delivered::reply);
        note(answers, positions, &reply);
    }
}

/// A recipient is answered by the worst of what became of those that it leads to.
fn note(answers: &mut [Option<Reply>], positions: &[usize], reply: &Reply) {
    for position in positions {
        let answer = &mut answers[*position];
        if answer.as_ref().is_none_or(|known| reply.is_worse_than(known)) {
            *answer = Some(reply.clone());
        }
    }
}
