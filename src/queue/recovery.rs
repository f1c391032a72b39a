//! From the records of a journal back to the index.

use super::codec;
use super::index::Index;
use crate::journal::{Journal, Location, Replayed, kind};

/// What replay has gathered so far. Give every record of the journal to `visit`, in order.
#[derive(Default)]
pub struct Recovered {
    index: Index,
    /// Messages whose ENVELOPE or STATE makes no sense though its checksum holds, and where.
    malformed: Vec<(u64, Location)>,
}

impl Recovered {
    /// Takes one record in. STATE is absolute, so any suffix in order gives the same end.
    pub fn visit(&mut self, record: Replayed<'_>) {
        let id = record.id;
        let known = self.index.message(id).is_some();
        match record.kind {
            kind::ENVELOPE if !known => match codec::read_envelope(record.payload) {
                Ok((envelope, chunks)) => {
                    self.index.insert(id, record.location, chunks, &envelope);
                }
                Err(codec::Malformed) => self.malformed.push((id, record.location)),
            },
            kind::STATE if known => match codec::read_state(record.payload) {
                Ok(state) => self.apply_state(id, record.aux, state),
                Err(codec::Malformed) => self.malformed.push((id, record.location)),
            },
            kind::RETIRED => {
                self.malformed.retain(|(malformed, _)| *malformed != id);
                if known {
                    close(&mut self.index, id);
                }
            }
            _ => {}
        }
    }

    pub fn message_count(&self) -> usize {
        self.index.message_count()
    }

    /// Records of unsettled messages that could not be understood: the operator is told.
    pub fn malformed_count(&self) -> usize {
        self.malformed.len()
    }

    fn apply_state(&mut self, id: u64, number: u32, state: codec::TaskRecord) {
        let entry = self.index.message(id).expect("looked up by the caller");
        let mut slots = self.index.tasks_of(entry).into_iter();
        let slot = slots.find(|slot| u32::from(self.index.task(*slot).number) == number);
        let Some(slot) = slot else { return };
        if state.open_recipients().is_empty() && !state.is_held() {
            if self.index.close_task(self.index.handle(slot)) {
                self.index.remove(id);
            }
            return;
        }
        let task = self.index.task_mut(slot);
        task.attempts = state.attempts;
        task.due_ms = state.due_ms;
        self.index.set_record(slot, Box::new(state));
    }
}

/// Pins what is live and schedules it.
pub(super) fn into_index(recovered: Recovered, now_ms: u64, journal: &Journal) -> Index {
    let mut index = recovered.index;
    for (_, location) in &recovered.malformed {
        // What is not understood is kept.
        journal.pin_recovered(*location);
    }
    let mut lost = Vec::new();
    for entry in index.messages() {
        let chunks = entry.chunks.iter().flat_map(|chunks| chunks.iter());
        let places = std::iter::once(&entry.envelope).chain(chunks);
        if places.filter(|place| !journal.pin_recovered(**place)).count() > 0 {
            lost.push(entry.id);
        }
    }
    for id in lost {
        eprintln!("ringpost: message {id}: its content is no longer on disk");
        close(&mut index, id);
    }
    schedule(&mut index, now_ms);
    index
}

/// Takes a message out of the index.
fn close(index: &mut Index, id: u64) {
    let entry = index.message(id).expect("looked up by the caller");
    for slot in index.tasks_of(entry) {
        index.close_task(index.handle(slot));
    }
    index.remove(id);
}

/// What was Delayed keeps its time, what was never tried is ready. What came due while nobody was
/// here is released on a ramp: next hops do not meet it as one crowd.
fn schedule(index: &mut Index, now_ms: u64) {
    let entries = index.messages();
    let mut slots: Vec<u32> = entries.flat_map(|entry| index.tasks_of(entry)).collect();
    let is_overdue = |index: &Index, slot: u32| {
        let task = index.task(slot);
        let is_held = task.record.as_ref().is_some_and(|record| record.is_held());
        task.attempts > 0 && !is_held && task.due_ms <= now_ms
    };
    let mut overdue: Vec<u32> = slots.extract_if(.., |slot| is_overdue(index, *slot)).collect();
    for slot in slots {
        let task = index.task(slot);
        let due_ms = task.due_ms;
        if task.record.as_ref().is_some_and(|record| record.is_held()) {
            index.hold(slot);
        } else if due_ms > now_ms {
            index.make_delayed(slot, due_ms);
        } else {
            index.make_ready(slot);
        }
    }
    overdue.sort_by_key(|slot| index.task(*slot).due_ms);
    let span = (overdue.len() as u64).max(RAMP_MS);
    for (position, slot) in overdue.into_iter().enumerate() {
        index.make_delayed(slot, now_ms + 1 + position as u64 * RAMP_MS / span);
    }
}

/// Within this time everything overdue is released, a thousand a second or faster.
const RAMP_MS: u64 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::envelope::Notify;
    use crate::mail::{Envelope, EnvelopeFlags, Recipient, Stream};

    const AT: Location =
        Location { slot: 0, block: 1, epoch_low: 1, in_frame: 64, record_bytes: 9 };

    fn visit(recovered: &mut Recovered, kind: u8, id: u64, aux: u32, payload: &[u8]) {
        recovered.visit(Replayed { kind, flags: 0, id, aux, payload, location: AT });
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
            expires_ms: 2,
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
        let record =
            codec::TaskRecord { attempts: 2, due_ms: 9, possible_duplicate: false, groups };
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
        let entry = recovered.index.message(1).expect("still queued");
        let slots = recovered.index.tasks_of(entry);
        assert_eq!(slots.len(), 1, "one task is settled");
        let task = recovered.index.task(slots[0]);
        assert_eq!((task.number, task.attempts, task.due_ms), (1, 2, 9));
        visit(&mut recovered, kind::STATE, 1, 1, &state(relayed, 1));
        assert_eq!(recovered.message_count(), 0);
    }

    #[test]
    fn what_makes_no_sense_is_counted_unless_the_message_is_settled() {
        let mut recovered = Recovered::default();
        visit(&mut recovered, kind::CONTENT, 1, 0, b"first");
        visit(&mut recovered, kind::CONTENT, 1, 1, b"second");
        visit(&mut recovered, kind::ENVELOPE, 1, 0, &envelope(2));
        assert_eq!((recovered.message_count(), recovered.malformed_count()), (1, 0));
        let entry = recovered.index.message(1).expect("queued");
        assert_eq!(entry.chunks.as_ref().expect("chunked").len(), 2);
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
        schedule(&mut index, 1_000);
        let mut ready = 0;
        while let Some(destination) = index.schedule.poll_announcement() {
            while index.take(destination).is_some() {
                ready += 1;
            }
        }
        assert_eq!(ready, 100, "what was never tried");
        let mut expired = Vec::new();
        let released =
            [1_000, 1_050, 1_100].map(|now_ms| index.release_due(now_ms, 1 << 40, &mut expired));
        assert_eq!((released, expired.len()), ([0, 50, 50], 0));
    }

    #[test]
    fn a_task_claimed_out_of_turn_leaves_no_second_turn_behind() {
        let mut recovered = Recovered::default();
        visit(&mut recovered, kind::ENVELOPE, 1, 0, &envelope(0));
        let mut index = recovered.index;
        schedule(&mut index, 1);
        let destination = index.schedule.poll_announcement().expect("ready");
        let mut tasks = Vec::new();
        index.visit_tasks(0, 100, |task, _, domain| tasks.push((task, domain.to_owned())));
        let (task, _) = tasks.into_iter().find(|(_, domain)| domain == "d.test").expect("there");
        assert!(index.claim(task, |state| state == crate::queue::TaskState::Ready));
        assert!(!index.claim(task, |_| true), "in flight");
        assert_eq!(index.take(destination), None);
        index.make_ready(task.slot);
        assert!(index.claim(task, |_| true));
        index.make_ready(task.slot);
        assert_eq!(index.take(destination), Some(task));
        assert_eq!(index.take(destination), None, "its other place in the line is void");
    }
}
