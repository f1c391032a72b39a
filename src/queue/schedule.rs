//! When a task is due, and which are ready for which destination. `Pure.`

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use slab::Slab;

use crate::config;

/// A destination domain that has tasks here. Never names another domain later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DestinationId {
    slot: u32,
    generation: u32,
}

struct Destination {
    name: Rc<str>,
    generation: u32,
    /// Slots of ready tasks, oldest first.
    ready: VecDeque<u32>,
    /// Tasks in any state.
    task_count: u32,
    /// Delivery knows of it and will take until nothing is left.
    announced: bool,
}

/// Ready tasks by destination, waiting tasks by time. Tasks are slots of the index.
#[derive(Default)]
pub struct Schedule {
    destinations: Slab<Destination>,
    by_name: HashMap<Rc<str>, u32>,
    next_generation: u32,
    /// Waiting tasks; an entry that the task has moved on from is skipped when it comes up.
    waiting: BinaryHeap<Reverse<(u64, u32)>>,
    announcements: VecDeque<DestinationId>,
}

impl Schedule {
    /// Counts a new task to `domain` (lower case) and returns the destination.
    pub fn enter(&mut self, domain: &str) -> DestinationId {
        let slot = match self.by_name.get(domain) {
            Some(slot) => *slot,
            None => {
                let name: Rc<str> = domain.into();
                self.next_generation += 1;
                let slot = self.destinations.insert(Destination {
                    name: name.clone(),
                    generation: self.next_generation,
                    ready: VecDeque::new(),
                    task_count: 0,
                    announced: false,
                }) as u32;
                self.by_name.insert(name, slot);
                slot
            }
        };
        let destination = &mut self.destinations[slot as usize];
        destination.task_count += 1;
        DestinationId { slot, generation: destination.generation }
    }

    /// Takes a settled task off the count.
    pub fn leave(&mut self, id: DestinationId) {
        let destination = self.destination_mut(id).expect("a task keeps its destination");
        assert!(destination.task_count > 0);
        destination.task_count -= 1;
        self.forget_if_unused(id);
    }

    /// Memory of the lines and of the clock.
    pub fn bytes(&self) -> usize {
        let of_one = |it: &Destination| it.name.len() + it.ready.capacity() * size_of::<u32>();
        let lines: usize = self.destinations.iter().map(|(_, it)| of_one(it)).sum();
        let destination = size_of::<Destination>() + size_of::<(Rc<str>, u32)>() + 1;
        lines
            + self.destinations.capacity() * destination
            + self.waiting.capacity() * size_of::<Reverse<(u64, u32)>>()
    }

    pub fn name(&self, id: DestinationId) -> Option<Rc<str>> {
        let destination = self.destinations.get(id.slot as usize)?;
        (destination.generation == id.generation).then(|| destination.name.clone())
    }

    /// Puts a task at the end of its destination's line.
    pub fn push_ready(&mut self, id: DestinationId, task_slot: u32) {
        let destination = self.destination_mut(id).expect("a task keeps its destination");
        destination.ready.push_back(task_slot);
        if !destination.announced {
            destination.announced = true;
            self.announcements.push_back(id);
        }
    }

    pub fn ready_count(&self, id: DestinationId) -> usize {
        let destination = self.destinations.get(id.slot as usize);
        destination.filter(|it| it.generation == id.generation).map_or(0, |it| it.ready.len())
    }

    /// The oldest ready task of a destination. After `None` the destination is announced anew when
    /// it has one again.
    pub fn take(&mut self, id: DestinationId) -> Option<u32> {
        let destination = self.destination_mut(id)?;
        if let Some(task_slot) = destination.ready.pop_front() {
            return Some(task_slot);
        }
        destination.announced = false;
        self.forget_if_unused(id);
        None
    }

    /// A destination that went from no ready task to some, once each time.
    pub fn poll_announcement(&mut self) -> Option<DestinationId> {
        self.announcements.pop_front()
    }

    /// Notes that a task waits until `due_ms`.
    pub fn push_waiting(&mut self, due_ms: u64, task_slot: u32) {
        self.waiting.push(Reverse((due_ms, task_slot)));
    }

    /// A task whose time has come: (the time it waited for, slot).
    pub fn pop_due(&mut self, now_ms: u64) -> Option<(u64, u32)> {
        let Reverse((due_ms, _)) = *self.waiting.peek()?;
        if due_ms > now_ms {
            return None;
        }
        self.waiting.pop().map(|Reverse(entry)| entry)
    }

    /// Name, tasks and ready tasks of every destination.
    pub fn destinations(&self) -> impl Iterator<Item = (&str, u32, usize)> {
        self.destinations.iter().map(|(_, it)| (&*it.name, it.task_count, it.ready.len()))
    }

    fn destination_mut(&mut self, id: DestinationId) -> Option<&mut Destination> {
        let destination = self.destinations.get_mut(id.slot as usize)?;
        (destination.generation == id.generation).then_some(destination)
    }

    fn forget_if_unused(&mut self, id: DestinationId) {
        let destination = &self.destinations[id.slot as usize];
        if destination.task_count == 0 && !destination.announced {
            assert!(destination.ready.is_empty());
            let destination = self.destinations.remove(id.slot as usize);
            self.by_name.remove(&destination.name);
        }
    }
}

/// Wait before the next attempt of a Delayed task: doubles with each finished attempt within the
/// configured range, then spread by up to a fifth either way so that retries do not march in step.
///
/// `attempt_count` counts from 1. `random` is uniform over all values. RFC 5321 §4.5.4.1 asks for
/// at least 30 minutes in general; the configured floor decides.
pub fn retry_wait(attempt_count: u32, random: u64, config: &config::Queue) -> Duration {
    assert!(attempt_count > 0);
    let doubled = config.retry_wait_min.saturating_mul(1 << (attempt_count - 1).min(16));
    let wait = doubled.clamp(config.retry_wait_min, config.retry_wait_max);
    let permille = 800 + (random % 401) as u32;
    wait * permille / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_announced_once_until_it_is_found_empty() {
        let mut schedule = Schedule::default();
        let id = schedule.enter("example.test");
        assert_eq!(schedule.enter("example.test"), id);
        schedule.push_ready(id, 1);
        schedule.push_ready(id, 2);
        assert_eq!(schedule.poll_announcement(), Some(id));
        assert_eq!(schedule.poll_announcement(), None);
        assert_eq!(schedule.take(id), Some(1));
        assert_eq!(schedule.take(id), Some(2));
        schedule.push_ready(id, 1);
        assert_eq!(schedule.poll_announcement(), None, "not yet found empty");
        assert_eq!(schedule.take(id), Some(1));
        assert_eq!(schedule.take(id), None);
        schedule.push_ready(id, 2);
        assert_eq!(schedule.poll_announcement(), Some(id));
    }

    #[test]
    fn a_forgotten_destination_never_names_another_domain() {
        let mut schedule = Schedule::default();
        let old = schedule.enter("old.test");
        schedule.leave(old);
        let new = schedule.enter("new.test");
        schedule.push_ready(new, 7);
        assert_eq!(schedule.name(old), None);
        assert_eq!(schedule.take(old), None);
        assert_eq!(schedule.take(new), Some(7));
    }

    #[test]
    fn waiting_tasks_come_up_in_order_of_time() {
        let mut schedule = Schedule::default();
        schedule.push_waiting(30, 3);
        schedule.push_waiting(10, 1);
        schedule.push_waiting(20, 2);
        assert_eq!(schedule.pop_due(9), None);
        assert_eq!(schedule.pop_due(20), Some((10, 1)));
        assert_eq!(schedule.pop_due(20), Some((20, 2)));
        assert_eq!(schedule.pop_due(20), None);
    }

    #[test]
    fn the_wait_doubles_between_floor_and_ceiling_and_is_spread() {
        let config = config::Config::embedded().queue;
        let wait = |count, random| retry_wait(count, random, &config).as_millis();
        let floor = config.retry_wait_min.as_millis();
        let ceiling = config.retry_wait_max.as_millis();
        assert_eq!(wait(1, 200), floor);
        assert_eq!(wait(1, 0), floor * 8 / 10);
        assert_eq!(wait(1, 400), floor * 12 / 10);
        assert_eq!(wait(2, 200), (floor * 2).min(ceiling));
        assert_eq!(wait(u32::MAX, 200), ceiling);
    }
}
