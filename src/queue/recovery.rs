//! From the records of a journal back to the index.

use std::collections::BTreeSet;

use super::codec;
use super::index::{Index, TaskState};
use super::items;
use super::outline::{Outline, Standing, pinned_bytes};
use crate::event::notice;
use crate::journal::{Journal, Location, Replay, Replayed, flag, kind};

/// What replay has gathered so far. Give every record of the journal to `visit`, in order.
#[derive(Default)]
pub struct Recovered {
    pub(super) index: Index,
    /// Messages whose ENVELOPE or STATE makes no sense though its checksum holds, and where.
    malformed: Vec<(u64, Location)>,
    /// Messages that may be settled: the records that would tell may be gone.
    doubtful: BTreeSet<u64>,
}

impl Replay for Recovered {
    /// Takes one record in. STATE and what a checkpoint says are absolute, so any suffix in order
    /// gives the same end.
    fn visit(&mut self, record: Replayed<'_>) {
        let id = record.id;
        let known = self.index.find(id);
        let is_moved = record.flags & flag::MOVED != 0;
        match record.kind {
            kind::ENVELOPE => {
                // Of a copy whose message is not known yet, or never will be, a checkpoint tells.
                let is_wanted = known.is_some() == is_moved || record.is_doubtful;
                if is_wanted && (known.is_none() || is_moved) {
                    self.apply_envelope(known, &record);
                }
            }
            kind::ITEMS => {
                let applied = self.apply_items(record.payload);
                self.malformed.extend(applied.err().map(|codec::Malformed| (id, record.location)));
            }
            kind::STATE => {
                let Some(message) = known else { return };
                match codec::read_state(record.payload) {
                    Ok(state) => self.apply_state(message, record.aux, &state, record.location),
                    Err(codec::Malformed) => self.malformed.push((id, record.location)),
                }
            }
            kind::RETIRED => {
                self.malformed.retain(|(malformed, _)| *malformed != id);
                if let Some(message) = known {
                    close(&mut self.index, message);
                }
            }
            _ => {}
        }
    }

    fn restart(&mut self) {
        *self = Recovered::default();
    }
}

impl Recovered {
    pub fn message_count(&self) -> usize {
        self.index.message_count()
    }

    /// Records of unsettled messages that could not be understood: the operator is told.
    pub fn malformed_count(&self) -> usize {
        self.malformed.len()
    }

    /// Messages that are held because they may be settled.
    pub fn doubtful_count(&self) -> usize {
        self.doubtful.len()
    }

    /// Records that make no sense, and their messages.
    pub(super) fn malformed(&self) -> &[(u64, Location)] {
        &self.malformed
    }

    fn apply_envelope(&mut self, known: Option<u32>, record: &Replayed<'_>) {
        let (id, location) = (record.id, record.location);
        let Ok((envelope, chunks)) = codec::read_envelope(record.payload) else {
            self.malformed.push((id, location));
            return;
        };
        match known {
            Some(message) => {
                if self.index.chunks(message).is_some() != chunks.is_empty() {
                    self.index.relocate(message, location, chunks);
                } else {
                    self.malformed.push((id, location));
                }
            }
            None => {
                self.index.insert(Outline::of_fresh(id, location, chunks, &envelope));
                if record.is_doubtful {
                    self.doubtful.insert(id);
                }
            }
        }
    }

    fn apply_items(&mut self, payload: &[u8]) -> Result<(), codec::Malformed> {
        let items = items::Read::new(payload)?;
        self.malformed.extend(&items.places);
        items.visit(|outline| {
            if let Some(message) = self.index.find(outline.id) {
                close(&mut self.index, message);
            }
            self.doubtful.remove(&outline.id);
            self.index.insert(outline);
        })
    }

    fn apply_state(&mut self, message: u32, number: u32, state: &codec::TaskRecord, at: Location) {
        let index = &mut self.index;
        let mut slots = index.tasks_of(message);
        let slot = slots.find(|slot| u32::from(index.task(*slot).number) == number);
        drop(slots);
        let Some(slot) = slot else { return };
        index.claim_slot(slot);
        if state.open_recipients().is_empty() && !state.is_held() {
            if let (_, Some(message)) = index.close_task(slot) {
                index.remove(message);
            }
        } else {
            index.set_change(slot, &state.change);
            index.set_standing(slot, &Standing::of(state, at));
        }
    }
}

/// Pins what is live and schedules it.
pub(super) fn into_index(recovered: Recovered, now_ms: u64, journal: &Journal) -> Index {
    let mut index = recovered.index;
    for (_, location) in &recovered.malformed {
        // What is not understood is kept.
        journal.pin_recovered(*location, pinned_bytes(*location, 0));
    }
    let (mut lost, mut unknown) = (Vec::new(), Vec::new());
    index.visit_messages(0, u32::MAX, |slot, entry| {
        let states = index.tasks_of(slot).filter(|task| {
            let record = index.task(*task).standing().record;
            record.is_some_and(|record| !journal.is_there(record))
        });
        unknown.extend(states);
        for (place, bytes) in index.places_of(slot) {
            if !journal.pin_recovered(place, bytes)
                && index
                    .tasks_of(slot)
                    .all(|task| index.task(task).standing().record != Some(place))
            {
                lost.push((slot, entry.id));
            }
        }
    });
    for task in unknown {
        // Who was settled cannot be told any more: rather twice than never.
        let standing = Standing { is_partial: false, record: None, ..index.task(task).standing() };
        index.claim_slot(task);
        index.set_standing(task, &standing);
    }
    for id in recovered.doubtful {
        let Some(message) = index.find(id) else { continue };
        let tasks: Vec<u32> = index.tasks_of(message).collect();
        for task in tasks {
            let standing =
                Standing { is_held: true, possible_duplicate: true, ..index.task(task).standing() };
            index.claim_slot(task);
            index.set_standing(task, &standing);
        }
    }
    lost.dedup();
    for (message, id) in lost {
        notice!("ringpost: message {id}: its content is no longer on disk");
        close(&mut index, message);
    }
    schedule(&mut index, now_ms);
    index
}

/// Takes a message out of the index.
fn close(index: &mut Index, message: u32) {
    while let Some(slot) = index.first_task(message) {
        index.claim_slot(slot);
        index.close_task(slot);
    }
    index.remove(message);
}

/// What was Delayed keeps its time, what was never tried is ready. What came due while nobody was
/// here is released on a ramp: next hops do not meet it as one crowd.
fn schedule(index: &mut Index, now_ms: u64) {
    index.begin(now_ms);
    let mut overdue = Overdue::default();
    index.visit_tasks(0, u32::MAX, |_, task, _, _| {
        if is_overdue(task.state(), &task.standing(), now_ms) {
            overdue.count(task.standing().due_ms, now_ms);
        }
    });
    let mut ramp = overdue.ramp();
    for slot in 0..index.task_slot_end() {
        let Some(task) = index.task_if_any(slot) else { continue };
        let (state, standing) = (task.state(), task.standing());
        if state == TaskState::Held {
            continue;
        } else if is_overdue(state, &standing, now_ms) {
            index.make_delayed(slot, now_ms + ramp.next_ms(standing.due_ms, now_ms));
        } else if standing.due_ms > now_ms {
            index.make_delayed(slot, standing.due_ms);
        } else {
            index.make_ready(slot);
        }
    }
}

/// Whether the time of a task has passed while nobody was here.
fn is_overdue(state: TaskState, standing: &Standing, now_ms: u64) -> bool {
    let waited = standing.attempts > 0 || standing.due_ms > 0;
    state != TaskState::Held && waited && standing.due_ms <= now_ms
}

/// How many tasks are overdue by how much: the ramp goes by that, in the memory of a page.
struct Overdue {
    counts: Vec<u64>,
}

/// Gives overdue tasks their times, the longest overdue first.
struct Ramp {
    /// Places on the ramp before those of each group.
    before: Vec<u64>,
    count: u64,
}

impl Default for Overdue {
    fn default() -> Self {
        Self { counts: vec![0; AGE_GROUPS] }
    }
}

impl Overdue {
    fn count(&mut self, due_ms: u64, now_ms: u64) {
        self.counts[age_group(due_ms, now_ms)] += 1;
    }

    fn ramp(self) -> Ramp {
        let mut before = self.counts;
        let mut count = 0;
        for group in before.iter_mut().rev() {
            let of_group = std::mem::replace(group, count);
            count += of_group;
        }
        Ramp { before, count }
    }
}

impl Ramp {
    /// Milliseconds from now at which the next task that was due at `due_ms` is released.
    fn next_ms(&mut self, due_ms: u64, now_ms: u64) -> u64 {
        let place = &mut self.before[age_group(due_ms, now_ms)];
        let span = self.count.max(RAMP_MS);
        let wait_ms = 1 + *place * RAMP_MS / span;
        *place += 1;
        wait_ms
    }
}

/// Tasks overdue by about the same time: groups are a minute wide for the first hours, and ever
/// wider then.
fn age_group(due_ms: u64, now_ms: u64) -> usize {
    let minutes = now_ms.saturating_sub(due_ms) / 60_000;
    let magnitude = minutes.checked_ilog2().unwrap_or(0).saturating_sub(AGE_BITS);
    let group = (u64::from(magnitude) << AGE_BITS) + (minutes >> magnitude);
    (group as usize).min(AGE_GROUPS - 1)
}

/// Groups of one width, as a power of two.
const AGE_BITS: u32 = 8;
const AGE_GROUPS: usize = 16 << AGE_BITS;
/// Within this time everything overdue is released, a thousand a second or faster.
const RAMP_MS: u64 = 60_000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Config, RetryPolicy};
    use crate::mail::envelope::Notify;
    use crate::mail::{Envelope, EnvelopeFlags, Recipient, Stream};
    use crate::queue::Announcement;
    use crate::queue::index::Overdue;

    const AT: Location =
        Location { slot: 0, block: 1, epoch_low: 1, in_frame: 64, record_bytes: 9 };

    fn visit(recovered: &mut Recovered, kind: u8, id: u64, aux: u32, payload: &[u8]) {
        visit_flagged(recovered, kind, 0, id, aux, payload);
    }

    fn visit_flagged(
        recovered: &mut Recovered,
        kind: u8,
        flags: u8,
        id: u64,
        aux: u32,
        payload: &[u8],
    ) {
        let is_doubtful = false;
        recovered.visit(Replayed { kind, flags, id, aux, payload, location: AT, is_doubtful });
    }

    fn envelope(chunk_count: usize) -> Vec<u8> {
        let recipient = |address: &str| Recipient {
            address: address.into(),
            original_recipient: None,
            notify: Notify::DEFAULT,
        };
        let envelope = Envelope {
            reverse_path: "a@b.test".into(),
            recipients: vec![recipient("c@d.test"), recipient("e@f.test")],
            flags: EnvelopeFlags::default(),
            accepted_ms: 1,
            release_ms: 0,
            stream: Stream::default(),
            envelope_id: None,
            client: None,
            header_prefix: Vec::new(),
            content_bytes: 1 << 20,
            content_hash: 0,
        };
        let mut payload = Vec::new();
        codec::write_envelope(&envelope, &vec![AT; chunk_count], &mut payload);
        payload
    }

    fn state(state: codec::RecipientState, recipient_index: u16) -> Vec<u8> {
        let reply = "250 ok".into();
        let groups = vec![codec::Group { state, reply, recipient_indexes: vec![recipient_index] }];
        let record = codec::TaskRecord {
            attempts: 2,
            due_ms: 9,
            possible_duplicate: false,
            delay_notified: false,
            groups,
            change: codec::Change::default(),
            ledger: None,
        };
        let mut payload = Vec::new();
        codec::write_state(&record, &mut payload);
        payload
    }

    #[test]
    fn a_message_stays_until_it_is_retired_or_its_last_task_is_settled() {
        let mut recovered = Recovered::default();
        visit(&mut recovered, kind::ENVELOPE, 1, 0, &envelope(0));
        visit(&mut recovered, kind::CONTENT, 1, 0, b"whole");
        visit(&mut recovered, kind::ENVELOPE, 2, 0, &envelope(0));
        let (relayed, delayed) = (codec::RecipientState::Relayed, codec::RecipientState::Delayed);
        visit(&mut recovered, kind::STATE, 1, 0, &state(relayed, 0));
        visit(&mut recovered, kind::STATE, 1, 1, &state(delayed, 1));
        visit(&mut recovered, kind::RETIRED, 2, 0, b"");
        assert_eq!((recovered.message_count(), recovered.malformed_count()), (1, 0));
        let message = recovered.index.find(1).expect("still queued");
        let slots: Vec<u32> = recovered.index.tasks_of(message).collect();
        assert_eq!(slots.len(), 1, "one task is settled");
        let task = recovered.index.task(slots[0]);
        let Standing { attempts, due_ms, record, .. } = task.standing();
        assert_eq!((task.number, attempts, due_ms, record), (1, 2, 9, Some(AT)));
        visit(&mut recovered, kind::STATE, 1, 1, &state(relayed, 1));
        assert_eq!(recovered.message_count(), 0);
    }

    #[test]
    fn a_checkpoint_and_what_follows_give_the_index_that_was() {
        let mut before = Recovered::default();
        visit(&mut before, kind::ENVELOPE, 1, 0, &envelope(0));
        visit(&mut before, kind::ENVELOPE, 2, 0, &envelope(3));
        visit(&mut before, kind::STATE, 2, 1, &state(codec::RecipientState::Delayed, 1));
        let mut items = items::Items::new();
        let index = &before.index;
        index.visit_messages(0, u32::MAX, |slot, _| items.add(&index.outline(slot)));
        let payload = items.into_payload();

        let mut after = Recovered::default();
        // A copy whose message is not known yet says nothing; the item names it.
        visit_flagged(&mut after, kind::ENVELOPE, flag::MOVED, 1, 0, &envelope(0));
        visit_flagged(&mut after, kind::STATE, flag::MOVED, 2, 1, &[]);
        assert_eq!((after.message_count(), after.malformed_count()), (0, 0));
        visit(&mut after, kind::ITEMS, 0, 0, &payload);
        visit(&mut after, kind::ITEMS, 0, 0, &payload);
        assert_eq!((after.message_count(), after.malformed_count()), (2, 0));
        for id in [1, 2] {
            let [one, other] =
                [&before, &after].map(|it| it.index.outline(it.index.find(id).expect("queued")));
            assert_eq!(one, other);
        }
        visit_flagged(&mut after, kind::ENVELOPE, flag::MOVED, 2, 0, &envelope(2));
        let message = after.index.find(2).expect("queued");
        assert_eq!(after.index.chunks(message).expect("chunked").len(), 2, "the copy's chunks");
        visit(&mut after, kind::RETIRED, 1, 0, b"");
        assert_eq!(after.message_count(), 1);
        visit(&mut after, kind::ITEMS, 0, 0, &payload[..payload.len() - 1]);
        assert_eq!(after.malformed_count(), 1);
    }

    #[test]
    fn what_makes_no_sense_is_counted_unless_the_message_is_settled() {
        let mut recovered = Recovered::default();
        visit(&mut recovered, kind::CONTENT, 1, 0, b"first");
        visit(&mut recovered, kind::CONTENT, 1, 1, b"second");
        visit(&mut recovered, kind::ENVELOPE, 1, 0, &envelope(2));
        assert_eq!((recovered.message_count(), recovered.malformed_count()), (1, 0));
        let message = recovered.index.find(1).expect("queued");
        assert_eq!(recovered.index.chunks(message).expect("chunked").len(), 2);
        let whole = envelope(2);
        visit(&mut recovered, kind::ENVELOPE, 2, 0, &whole[..whole.len() - 1]);
        visit(&mut recovered, kind::ENVELOPE, 3, 0, b"nonsense");
        assert_eq!((recovered.message_count(), recovered.malformed_count()), (1, 2));
        visit(&mut recovered, kind::RETIRED, 2, 0, b"");
        assert_eq!(recovered.malformed_count(), 1);
    }

    #[test]
    fn what_is_overdue_is_released_on_a_ramp_oldest_first() {
        let mut recovered = Recovered::default();
        for id in 1..=100 {
            visit(&mut recovered, kind::ENVELOPE, id, 0, &envelope(0));
        }
        // The first task of each was tried once, and is due at 9; the second never was.
        let delayed = codec::RecipientState::Delayed;
        for id in 1..=100 {
            visit(&mut recovered, kind::STATE, id, 0, &state(delayed, 0));
        }
        let mut index = recovered.index;
        schedule(&mut index, 1_024);
        let ready = take_all(&mut index).len();
        assert_eq!(ready, 100, "what was never tried");
        let mut overdue = Overdue::default();
        let lifetime = Duration::from_secs(1 << 30);
        let policy = RetryPolicy { lifetime, ..Config::embedded().queue.retry() };
        let mut release =
            |now_ms| index.release_due(now_ms, |_, _| policy, usize::MAX, &mut overdue);
        let released = [1_024, 1_088, 1_152].map(|now_ms| release(now_ms).ready_count);
        assert_eq!((released, overdue.expired.len()), ([0, 64, 36], 0));
    }

    #[test]
    fn a_message_to_be_released_later_waits_for_it_without_an_attempt() {
        let (mut later, _) = codec::read_envelope(&envelope(0)).expect("an envelope");
        later.release_ms = 128_000;
        let mut payload = Vec::new();
        codec::write_envelope(&later, &[], &mut payload);
        let mut recovered = Recovered::default();
        visit(&mut recovered, kind::ENVELOPE, 1, 0, &payload);
        let mut index = recovered.index;
        schedule(&mut index, 64_000);
        assert_eq!(take_all(&mut index), []);
        let mut overdue = Overdue::default();
        let policy =
            RetryPolicy { lifetime: Duration::from_millis(1), ..Config::embedded().queue.retry() };
        let mut release =
            |now_ms| index.release_due(now_ms, |_, _| policy, usize::MAX, &mut overdue);
        assert_eq!([127_999, 128_000].map(|now_ms| release(now_ms).ready_count), [0, 2]);
        let tasks = take_all(&mut index);
        assert!(tasks.iter().all(|task| index.task(task.slot).standing().attempts == 0));
        assert_eq!((tasks.len(), overdue.expired.len()), (2, 0));
    }

    /// Takes everything that is ready, all flows in one line.
    fn take_all(index: &mut Index) -> Vec<crate::queue::Task> {
        let line = index.open_line();
        while let Some(announcement) = index.poll_announcement() {
            if let Announcement::Flow(flow) = announcement {
                index.assign(flow, line);
            }
        }
        std::iter::from_fn(|| index.take(line, 0)).collect()
    }

    #[test]
    fn the_ramp_goes_by_age_and_never_stands_still() {
        let minutes: Vec<u64> = (0..15).flat_map(|power| [1 << power, (1 << power) + 7]).collect();
        let now_ms = 1 << 40;
        let groups = |it: u64| age_group(now_ms - it * 60_000, now_ms);
        let mut sorted = minutes.clone();
        sorted.sort_unstable();
        assert!(sorted.is_sorted_by(|one, two| groups(*one) <= groups(*two)));
        assert_eq!((age_group(now_ms, now_ms), age_group(0, u64::MAX)), (0, AGE_GROUPS - 1));
    }

    #[test]
    fn a_task_claimed_out_of_turn_leaves_no_second_turn_behind() {
        let mut recovered = Recovered::default();
        visit(&mut recovered, kind::ENVELOPE, 1, 0, &envelope(0));
        let mut index = recovered.index;
        schedule(&mut index, 1);
        let mut tasks = Vec::new();
        index.visit_tasks(0, 100, |task, _, domain, _| tasks.push((task, domain.to_owned())));
        let (task, _) = tasks.into_iter().find(|(_, domain)| domain == "d.test").expect("there");
        assert!(index.claim(task, |state| state == TaskState::Ready).is_some());
        assert!(index.claim(task, |_| true).is_none(), "in flight");
        let others = take_all(&mut index);
        assert!(!others.contains(&task) && others.len() == 1);
        index.make_ready(task.slot);
        assert_eq!(index.claim(task, |_| true), Some(TaskState::Ready));
        index.make_ready(task.slot);
        assert_eq!(take_all(&mut index), [task], "its other place in the line is void");
    }
}
