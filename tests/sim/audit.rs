//! A look into the index of a queue, and at what it must be: that which replay makes of the
//! records.

use std::collections::BTreeMap;

use super::codec;
use super::index::{Index, TaskState};
use super::items;
use super::outline::Outline;
use super::recovery::Recovered;
use super::store::Queue;
use super::{LineId, Task};
use crate::journal::tap::{Logged, Tap};
use crate::journal::{Replay, Replayed, Ticket, flag, kind};

type Checked = Result<(), String>;

/// What replay makes of the records of a tap whose frames are not after `last_seq`. An error where
/// an item of a checkpoint says anything else than the records before it, times excepted: the index
/// knows when a task in flight was taken, and until when one is put off.
pub fn fold(tap: &Tap, last_seq: u64) -> Result<Recovered, String> {
    let mut folded = Recovered::default();
    let mut checked = Ok(());
    tap.visit(|logged| {
        if logged.seq <= last_seq {
            if logged.kind == kind::ITEMS && checked.is_ok() {
                checked = check_items(&folded, &logged.payload);
            }
            folded.visit(replayed(logged));
        }
    });
    checked.map(|()| folded)
}

fn check_items(folded: &Recovered, payload: &[u8]) -> Checked {
    let mut checked = Ok(());
    let items = items::Read::new(payload).map_err(|_| "items make no sense")?;
    let visited = items.visit(|mut item| {
        let slot = folded.index.find(item.id);
        let expected = slot.map(|slot| folded.index.outline(slot));
        let expected_tasks = expected.iter().flat_map(|it| &it.tasks);
        for (task, expected) in item.tasks.iter_mut().zip(expected_tasks) {
            task.standing.due_ms = expected.standing.due_ms;
            task.standing.delay_notified &= expected.standing.delay_notified;
        }
        if checked.is_ok() && expected.as_ref() != Some(&item) {
            checked = Err(format!("an item says {item:?}, the records {expected:?}"));
        }
    });
    visited.map_err(|_| "items make no sense")?;
    checked
}

fn replayed(logged: &Logged) -> Replayed<'_> {
    Replayed {
        kind: logged.kind,
        flags: logged.flags,
        id: logged.id,
        aux: logged.aux,
        payload: &logged.payload,
        location: logged.location,
        is_doubtful: false,
    }
}

/// Whether a recovery from the disk found what the records say: the same messages, each with the
/// same open tasks, places, attempts, times, and what an operator changed.
pub fn agree(recovered: &Recovered, folded: &Recovered) -> Checked {
    if recovered.malformed_count() + recovered.doubtful_count() > 0 {
        return Err("recovery finds records that make no sense".to_owned());
    }
    let [found, expected] = [recovered, folded].map(|it| outlines(&it.index));
    for (id, (_, expected)) in &expected {
        let Some((_, found)) = found.get(id) else {
            return Err(format!("message {id} is not recovered: {expected:?}"));
        };
        if found != expected {
            return Err(format!("message {id} is recovered as {found:?}, not as {expected:?}"));
        }
    }
    match found.iter().find(|(id, _)| !expected.contains_key(id)) {
        Some((id, _)) => Err(format!("message {id} came back")),
        None => Ok(()),
    }
}

/// Slots and outlines by id.
fn outlines(index: &Index) -> BTreeMap<u64, (u32, Outline<'_>)> {
    let mut outlines = BTreeMap::new();
    index.visit_messages(0, u32::MAX, |slot, entry| {
        outlines.insert(entry.id, (slot, index.outline(slot)));
    });
    outlines
}

/// What the index may know better than the records.
pub struct Leave<'a> {
    /// Unix milliseconds at which the process began: what was overdue then has a time on the ramp.
    pub begun_ms: u64,
    /// Tasks, by message and number, that were put off without a record.
    pub put_off: &'a dyn Fn(u64, u16) -> bool,
}

/// Whether the index in memory is what replay makes of every record that was appended so far.
pub fn judge(queue: &Queue, tap: &Tap, lines: &[LineId], leave: &Leave<'_>) -> Checked {
    let folded = fold(tap, u64::MAX)?;
    let index = queue.inner.index.borrow();
    let [found, expected] = [&*index, &folded.index].map(outlines);
    let mut envelopes = BTreeMap::new();
    tap.visit(|logged| {
        if logged.kind == kind::ENVELOPE && logged.flags & flag::MOVED == 0 {
            envelopes.insert(logged.id, Ticket(logged.seq));
        }
    });
    for (id, (_, expected)) in &expected {
        let Some((slot, found)) = found.get(id) else {
            // The index learns of it when it is durable.
            if queue.inner.journal.is_durable(envelopes[id]) {
                return Err(format!("message {id} is not in the index: {expected:?}"));
            }
            continue;
        };
        compare(&index, *slot, found, expected, leave)?;
    }
    if let Some(id) = found.keys().find(|id| !expected.contains_key(*id)) {
        return Err(format!("message {id} is settled and still in the index"));
    }
    count(&index, lines)
}

fn compare(
    index: &Index,
    slot: u32,
    found: &Outline<'_>,
    expected: &Outline<'_>,
    leave: &Leave<'_>,
) -> Checked {
    let id = found.id;
    let numbers = |outline: &Outline<'_>| -> Vec<u16> {
        outline.tasks.iter().map(|task| task.number).collect()
    };
    if numbers(found) != numbers(expected) {
        return Err(format!("open tasks of message {id}: {found:?}, not {expected:?}"));
    }
    let mut adapted = found.clone();
    let slots: Vec<u32> = index.tasks_of(slot).collect();
    for ((task, expected), slot) in adapted.tasks.iter_mut().zip(&expected.tasks).zip(slots) {
        let is_waiting = index.task(slot).state() == TaskState::Delayed;
        let was_overdue = expected.standing.due_ms <= leave.begun_ms;
        if !is_waiting || was_overdue || (leave.put_off)(id, task.number) {
            task.standing.due_ms = expected.standing.due_ms;
        }
        // That nobody wants to be told of a delay is not recorded.
        task.standing.delay_notified &= expected.standing.delay_notified;
    }
    if adapted != *expected {
        return Err(format!("message {id} is in the index as {found:?}, not as {expected:?}"));
    }
    Ok(())
}

/// Whether every task stands where its state says, once.
fn count(index: &Index, lines: &[LineId]) -> Checked {
    let mut by_state = [0; 4];
    index.visit_tasks(0, u32::MAX, |_, task, _, _| by_state[task.state() as usize] += 1);
    let counts = index.counts();
    if by_state != [counts.ready, counts.in_flight, counts.delayed, counts.held] {
        return Err(format!("tasks by state are {by_state:?}, counted as {counts:?}"));
    }
    let in_lines: usize = lines.iter().map(|line| index.ready_count(*line)).sum();
    if in_lines != counts.ready {
        return Err(format!("{in_lines} ready tasks stand in lines, {} are ready", counts.ready));
    }
    Ok(())
}

/// When a task is to be tried by its last record, in Unix milliseconds, and its number.
pub fn due_ms(queue: &Queue, tap: &Tap, task: Task) -> (u64, u16) {
    let number = queue.inner.index.borrow().task(task.slot).number;
    let mut due_ms = 0;
    tap.visit(|logged| {
        if logged.id == task.message
            && logged.kind == kind::STATE
            && logged.aux == u32::from(number)
            && let Ok(state) = codec::read_state(&logged.payload)
        {
            due_ms = state.due_ms;
        }
    });
    (due_ms, number)
}

/// Numbers of the messages that are queued.
pub fn ids(recovered: &Recovered) -> Vec<u64> {
    outlines(&recovered.index).into_keys().collect()
}

/// The same record with what a planted bug forgets.
pub fn forget(payload: &[u8], forget: impl FnOnce(&mut codec::TaskRecord)) -> Vec<u8> {
    let mut forgetful = Vec::new();
    if let Ok(mut state) = codec::read_state(payload) {
        forget(&mut state);
        codec::write_state(&state, &mut forgetful);
    }
    forgetful
}

/// The message of a task.
pub fn message(task: Task) -> u64 {
    task.message
}
