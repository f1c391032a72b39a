//! When a task is due, and whose turn it is among those that are ready. `Pure.`

mod flows;
mod lines;
mod list;
mod streams;
mod wheel;

use std::collections::VecDeque;

pub use flows::{Flow, FlowId};
pub use lines::LineId;
pub use streams::mix;

pub(super) use list::{Chain, Links, NONE};
pub(super) use wheel::{Step, Waiting};

use crate::config::NextHop;
use crate::mail::Stream;
use flows::Flows;
use lines::Lines;
use wheel::Wheel;

/// What delivery is to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// This flow has ready tasks and no line.
    Flow(FlowId),
    /// This line had no ready task, and has some.
    Line(LineId),
}

/// Tasks as the schedule sees them: entries it links into its lists.
pub(super) trait Tasks: Waiting {
    fn flow(&self, slot: u32) -> u32;
    /// What the task takes from its stream's share; at least 1.
    fn cost(&self, slot: u32) -> u8;
}

/// Ready tasks by flow and line, waiting tasks by time. A task stands in one list, or in none.
#[derive(Default)]
pub(super) struct Schedule {
    flows: Flows,
    lines: Lines,
    wheel: Wheel,
    announcements: VecDeque<Announcement>,
}

impl Schedule {
    /// Begins at `now_ms`, before the first task.
    pub fn begin(&mut self, now_ms: u64) {
        self.wheel.begin(now_ms);
    }

    /// Counts a new task to `domain` and returns its flow. Domain and `sender`, that of the
    /// reverse-path, are in lower case. `next_hop` is what an operator wants.
    pub fn enter(
        &mut self,
        domain: &str,
        stream: &Stream,
        sender: &str,
        next_hop: Option<&NextHop>,
    ) -> u32 {
        self.flows.enter(domain, stream, sender, next_hop)
    }

    /// Takes a settled task off the count of its flow.
    pub fn leave(&mut self, flow: u32) {
        self.flows.leave(flow);
    }

    pub fn flow(&self, id: FlowId) -> Option<Flow> {
        self.flows.slot(id).map(|slot| self.flow_at(slot))
    }

    pub fn flow_at(&self, slot: u32) -> Flow {
        Flow {
            domain: self.flows.domain(slot).clone(),
            stream: self.flows.stream(slot).clone(),
            next_hop: self.flows.next_hop(slot),
        }
    }

    /// Shows flows that have tasks, from `from` on, `count` of them at most. Returns where to go
    /// on, `None` at the end.
    pub fn visit_flows(
        &self,
        from: u32,
        count: u32,
        mut visit: impl FnMut(FlowId, Flow),
    ) -> Option<u32> {
        self.flows.visit(from, count, |slot| visit(self.flows.id(slot), self.flow_at(slot)))
    }

    /// The next hop that an operator wants.
    pub fn next_hop(&self, flow: u32) -> Option<NextHop> {
        self.flows.next_hop(flow)
    }

    pub fn domain(&self, flow: u32) -> &str {
        self.flows.domain(flow)
    }

    pub fn stream(&self, flow: u32) -> &Stream {
        self.flows.stream(flow)
    }

    /// Domain of the reverse-path where it tells streams apart, else empty.
    pub fn sender(&self, flow: u32) -> &str {
        self.flows.sender(flow)
    }

    /// Memory taken.
    pub fn bytes(&self) -> usize {
        let announcements = self.announcements.capacity() * size_of::<Announcement>();
        self.flows.bytes() + self.lines.bytes() + self.wheel.bytes() + announcements
    }

    pub fn open_line(&mut self) -> LineId {
        self.lines.open()
    }

    /// Ends a line. Its flows are announced anew as soon as they have ready tasks.
    pub fn close_line(&mut self, line: LineId) {
        let mut flows_left = Vec::new();
        self.lines.close(line, &mut self.flows, &mut flows_left);
        for flow in flows_left {
            self.announce_flow(flow);
        }
    }

    /// Lets a flow have its ready tasks, now and later, in an open line. What is no longer there is
    /// passed over.
    pub fn assign(&mut self, flow: FlowId, line: LineId) {
        let Some(slot) = self.flows.slot(flow).filter(|_| self.lines.is_open(line)) else { return };
        let entry = self.flows.get_mut(slot);
        if entry.line.replace(line) == Some(line) {
            return;
        }
        if entry.turn != NONE {
            self.lines.leave(&mut self.flows, slot);
        }
        if self.flows.get(slot).ready_count > 0 && self.lines.enter(line, &mut self.flows, slot) {
            self.announcements.push_back(Announcement::Line(line));
        }
    }

    /// A flow or line that is to be looked at, once each time.
    pub fn poll_announcement(&mut self) -> Option<Announcement> {
        while let Some(announcement) = self.announcements.pop_front() {
            let holds = match announcement {
                Announcement::Line(line) => self.lines.on_announced(line),
                Announcement::Flow(flow) => self.flows.slot(flow).is_some_and(|slot| {
                    let entry = self.flows.get_mut(slot);
                    entry.pending = false;
                    let holds = entry.ready_count > 0 && entry.turn == NONE;
                    self.flows.forget_if_unused(slot);
                    holds
                }),
            };
            if holds {
                return Some(announcement);
            }
        }
        None
    }

    /// How many tasks `take` would give one after the other.
    pub fn ready_count(&self, line: LineId) -> usize {
        self.lines.ready_count(line)
    }

    /// The task whose turn it is in a line.
    pub fn take(&mut self, tasks: &mut impl Tasks, line: LineId) -> Option<u32> {
        let flow = self.lines.next(line, &mut self.flows)?;
        let task = self.flows.pop_ready(tasks, flow);
        self.lines.on_taken(&mut self.flows, flow, tasks.cost(task));
        Some(task)
    }

    /// Puts a task at the end of its flow.
    pub fn push_ready(&mut self, tasks: &mut impl Tasks, task: u32) {
        let flow = tasks.flow(task);
        self.flows.push_ready(tasks, flow, task);
        self.on_ready(flow);
    }

    /// Puts a task that is not to lose its place before the others of its flow.
    pub fn push_ready_first(&mut self, tasks: &mut impl Tasks, task: u32) {
        let flow = tasks.flow(task);
        self.flows.push_ready_first(tasks, flow, task);
        self.on_ready(flow);
    }

    /// A flow has one ready task more.
    fn on_ready(&mut self, flow: u32) {
        let entry = self.flows.get(flow);
        if entry.turn != NONE {
            let announce = self.lines.on_ready(&self.flows, flow);
            assert!(!announce, "a flow in its turn has ready tasks");
            return;
        }
        match entry.line.filter(|line| self.lines.is_open(*line)) {
            Some(line) => {
                if self.lines.enter(line, &mut self.flows, flow) {
                    self.announcements.push_back(Announcement::Line(line));
                }
            }
            None => self.announce_flow(flow),
        }
    }

    /// Takes a ready task out of its flow, out of turn.
    pub fn remove_ready(&mut self, tasks: &mut impl Tasks, task: u32) {
        let flow = tasks.flow(task);
        self.flows.remove_ready(tasks, flow, task);
        if self.flows.get(flow).turn != NONE {
            self.lines.on_claimed(&mut self.flows, flow);
        }
    }

    /// Lets a task wait until its time.
    pub fn push_waiting(&mut self, tasks: &mut impl Tasks, task: u32) {
        self.wheel.insert(tasks, task);
    }

    /// Takes a task out that waits.
    pub fn remove_waiting(&mut self, tasks: &mut impl Tasks, task: u32) {
        self.wheel.remove(tasks, task);
    }

    /// Goes a step towards `now_ms`: gives a task whose time has come, which then is in no list.
    pub fn step(&mut self, tasks: &mut impl Tasks, now_ms: u64) -> Step {
        self.wheel.step(tasks, now_ms)
    }

    fn announce_flow(&mut self, flow: u32) {
        let entry = self.flows.get_mut(flow);
        entry.line = None;
        if !std::mem::replace(&mut entry.pending, true) {
            self.announcements.push_back(Announcement::Flow(self.flows.id(flow)));
        }
    }
}

#[cfg(test)]
mod tests;
