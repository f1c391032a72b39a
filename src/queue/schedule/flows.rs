//! Flows: what goes to one domain in one stream, and the tasks of it that are ready. `Pure.`

use std::rc::Rc;

use hashbrown::HashTable;

use super::super::slab::{FEW, Slab};
use super::LineId;
use super::list::{Chain, Links, List, NONE};
use super::streams::{Names, Streams, mix};
use crate::config::{NextHop, parse_next_hop};
use crate::mail::Stream;

/// A flow that has tasks here. Never names another one later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowId {
    pub(super) slot: u32,
    generation: u32,
}

/// What a flow is.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Lower case; empty for a bare `Postmaster`.
    pub domain: Rc<str>,
    pub stream: Rc<Stream>,
    /// By order of an operator, whatever routes say.
    pub next_hop: Option<NextHop>,
}

pub struct FlowEntry {
    domain: u32,
    pub stream: u32,
    /// Handle of the next hop that an operator wants; `NONE` without one.
    next_hop: u32,
    generation: u32,
    /// Tasks in any state.
    task_count: u32,
    /// Ready tasks, oldest first.
    ready: List,
    pub ready_count: u32,
    /// The line it is assigned to, which may have been closed since.
    pub line: Option<LineId>,
    /// The turn it stands in while it has ready tasks and a line; `NONE` else.
    pub turn: u32,
    /// Neighbours there.
    links: Links,
    /// It waits to be announced.
    pub pending: bool,
}

#[derive(Default)]
pub struct Flows {
    flows: Slab<FlowEntry, FEW>,
    by_name: HashTable<u32>,
    domains: Names,
    next_hops: Names,
    pub streams: Streams,
    next_generation: u32,
}

impl Flows {
    /// Counts a new task to `domain`. Domain and `sender`, that of the reverse-path, are in lower
    /// case. `next_hop` is what an operator wants.
    pub fn enter(
        &mut self,
        domain: &str,
        stream: &Stream,
        sender: &str,
        next_hop: Option<&NextHop>,
    ) -> u32 {
        let domain = self.domains.enter(domain);
        let stream = self.streams.enter(stream, sender);
        let next_hop = next_hop.map_or(NONE, |it| self.next_hops.enter(&it.to_string()));
        let flows = &mut self.flows;
        let hash = hash_of(domain, stream, next_hop);
        let same = |slot: &u32| flows[*slot].name() == (domain, stream, next_hop);
        if let Some(slot) = self.by_name.find(hash, same).copied() {
            // The flow uses its names already.
            self.domains.leave(domain);
            self.streams.leave(stream);
            if next_hop != NONE {
                self.next_hops.leave(next_hop);
            }
            flows[slot].task_count += 1;
            return slot;
        }
        self.next_generation += 1;
        let slot = flows.insert(FlowEntry {
            domain,
            stream,
            next_hop,
            generation: self.next_generation,
            task_count: 1,
            ready: List::default(),
            ready_count: 0,
            line: None,
            turn: NONE,
            links: Links::default(),
            pending: false,
        });
        self.by_name.insert_unique(hash, slot, |slot| {
            let (domain, stream, next_hop) = flows[*slot].name();
            hash_of(domain, stream, next_hop)
        });
        slot
    }

    /// Takes a settled task off the count.
    pub fn leave(&mut self, slot: u32) {
        let flow = &mut self.flows[slot];
        assert!(flow.task_count > 0);
        flow.task_count -= 1;
        self.forget_if_unused(slot);
    }

    /// A flow without tasks is gone, unless it waits to be announced.
    pub fn forget_if_unused(&mut self, slot: u32) {
        let flow = &self.flows[slot];
        if flow.task_count > 0 || flow.pending {
            return;
        }
        assert!(flow.ready.is_empty());
        let FlowEntry { domain, stream, next_hop, .. } = self.flows.remove(slot);
        let hash = hash_of(domain, stream, next_hop);
        let found = self.by_name.find_entry(hash, |it| *it == slot);
        found.expect("a flow can be found").remove();
        self.domains.leave(domain);
        self.streams.leave(stream);
        if next_hop != NONE {
            self.next_hops.leave(next_hop);
        }
    }

    pub fn id(&self, slot: u32) -> FlowId {
        FlowId { slot, generation: self.flows[slot].generation }
    }

    /// The slot of a flow that still is.
    pub fn slot(&self, id: FlowId) -> Option<u32> {
        let flow = self.flows.get(id.slot)?;
        (flow.generation == id.generation).then_some(id.slot)
    }

    pub fn get(&self, slot: u32) -> &FlowEntry {
        &self.flows[slot]
    }

    pub fn get_mut(&mut self, slot: u32) -> &mut FlowEntry {
        &mut self.flows[slot]
    }

    pub fn domain(&self, slot: u32) -> &Rc<str> {
        self.domains.text(self.flows[slot].domain)
    }

    pub fn stream(&self, slot: u32) -> &Rc<Stream> {
        self.streams.stream(self.flows[slot].stream)
    }

    /// Domain of the reverse-path where it tells streams apart, else empty.
    pub fn sender(&self, slot: u32) -> &str {
        self.streams.sender(self.flows[slot].stream)
    }

    /// The next hop that an operator wants.
    pub fn next_hop(&self, slot: u32) -> Option<NextHop> {
        let name = Some(self.flows[slot].next_hop).filter(|name| *name != NONE)?;
        let next_hop = parse_next_hop(self.next_hops.text(name));
        Some(next_hop.expect("a next hop reads back"))
    }

    /// Shows the slots of flows from `from` on, `count` of them at most. Returns where to go on,
    /// `None` at the end.
    pub fn visit(&self, from: u32, count: u32, visit: impl FnMut(u32)) -> Option<u32> {
        let end = from.saturating_add(count).min(self.flows.slot_end());
        (from..end).filter(|slot| self.flows.get(*slot).is_some()).for_each(visit);
        (end < self.flows.slot_end()).then_some(end)
    }

    pub fn push_ready(&mut self, tasks: &mut impl Chain, slot: u32, task: u32) {
        let flow = &mut self.flows[slot];
        flow.ready.push_back(tasks, task);
        flow.ready_count += 1;
    }

    /// Before the others.
    pub fn push_ready_first(&mut self, tasks: &mut impl Chain, slot: u32, task: u32) {
        let flow = &mut self.flows[slot];
        flow.ready.push_front(tasks, task);
        flow.ready_count += 1;
    }

    /// Takes out the oldest ready task of a flow that has one.
    pub fn pop_ready(&mut self, tasks: &mut impl Chain, slot: u32) -> u32 {
        let flow = &mut self.flows[slot];
        flow.ready_count -= 1;
        flow.ready.pop_front(tasks).expect("its ready tasks are counted")
    }

    /// Takes out a ready task, whatever its place.
    pub fn remove_ready(&mut self, tasks: &mut impl Chain, slot: u32, task: u32) {
        let flow = &mut self.flows[slot];
        flow.ready.remove(tasks, task);
        flow.ready_count -= 1;
    }

    pub fn bytes(&self) -> usize {
        let names = self.domains.bytes() + self.streams.bytes() + self.next_hops.bytes();
        self.flows.bytes() + self.by_name.allocation_size() + names
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.flows.len()
    }
}

impl FlowEntry {
    fn name(&self) -> (u32, u32, u32) {
        (self.domain, self.stream, self.next_hop)
    }
}

fn hash_of(domain: u32, stream: u32, next_hop: u32) -> u64 {
    mix(mix(domain.into(), stream.into()), next_hop.into())
}

impl Chain for Flows {
    fn links(&mut self, slot: u32) -> &mut Links {
        &mut self.flows[slot].links
    }
}
