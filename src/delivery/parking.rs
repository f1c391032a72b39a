//! Mail that an operator suspended: its flows stand in a line that nobody serves.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use super::Delivery;
use super::held_up::HeldUp;
use crate::mail::WaitCause;
use crate::queue::ledger::Waiting;
use crate::queue::{Flow, FlowId, LineId, Queue, Sites, StandingOrders};
use crate::runtime::{clock, task};

pub(super) struct Parking {
    orders: RefCell<Arc<StandingOrders>>,
    /// Unix milliseconds since which they are what they are.
    since_ms: Cell<u64>,
    line: Cell<LineId>,
    /// Unix milliseconds at which the next order ends by itself.
    next_end_ms: Cell<u64>,
    /// What the orders were before: the ledger of what waited wants to know. The latest last.
    past: RefCell<VecDeque<PastOrders>>,
}

struct PastOrders {
    orders: Arc<StandingOrders>,
    from_ms: u64,
    to_ms: u64,
}

impl Parking {
    pub fn new(queue: &Queue, orders: Arc<StandingOrders>) -> Self {
        let now_ms = clock::unix_ms();
        Self {
            since_ms: Cell::new(now_ms),
            line: Cell::new(queue.open_line()),
            next_end_ms: Cell::new(orders.next_end_ms(now_ms).unwrap_or(u64::MAX)),
            orders: RefCell::new(orders),
            past: RefCell::default(),
        }
    }

    /// The line for a flow that is to wait; `site` is its next hop in words.
    pub fn line_for(&self, flow: &Flow, site: impl FnOnce() -> Option<String>) -> Option<LineId> {
        let orders = self.orders.borrow();
        if orders.is_empty() {
            return None;
        }
        let site = site();
        let order = orders.find(&flow.domain, &flow.stream, site.as_deref(), clock::unix_ms());
        order.map(|_| self.line.get())
    }

    /// Whether an order has ended by itself since this was asked.
    pub fn has_ended(&self) -> bool {
        let now_ms = clock::unix_ms();
        let has_ended = now_ms >= self.next_end_ms.get();
        if has_ended {
            self.next_end_ms.set(self.orders.borrow().next_end_ms(now_ms).unwrap_or(u64::MAX));
        }
        has_ended
    }

    fn replace(&self, orders: Arc<StandingOrders>) {
        let now_ms = clock::unix_ms();
        self.next_end_ms.set(orders.next_end_ms(now_ms).unwrap_or(u64::MAX));
        let before = self.orders.replace(orders);
        let from_ms = self.since_ms.replace(now_ms);
        if before.is_empty() {
            return;
        }
        let mut past = self.past.borrow_mut();
        past.push_back(PastOrders { orders: before, from_ms, to_ms: now_ms });
        if past.len() > PAST_MAX {
            past.pop_front();
        }
    }

    /// When a flow waited by order, Unix milliseconds: intervals that do not meet, in order.
    fn suspended(&self, flow: &Flow, site: Option<&str>) -> Vec<(u64, u64)> {
        let mut times = Vec::new();
        let mut add = |orders: &StandingOrders, from_ms: u64, to_ms: u64| {
            for (since_ms, until_ms) in orders.times(&flow.domain, &flow.stream, site) {
                times.push((since_ms.max(from_ms), until_ms.min(to_ms)));
            }
        };
        for past in self.past.borrow().iter() {
            add(&past.orders, past.from_ms, past.to_ms);
        }
        // What stood before the process did counts from its beginning.
        let from_ms = if self.past.borrow().is_empty() { 0 } else { self.since_ms.get() };
        add(&self.orders.borrow(), from_ms, u64::MAX);
        merge(times)
    }

    /// What held up a flow, whose line was held up as `line` says.
    pub fn waiting_of(
        &self,
        flow: &Flow,
        site: Option<&str>,
        line: Option<Rc<dyn Waiting>>,
    ) -> Rc<dyn Waiting> {
        let cause = WaitCause::SuspendedByOperator;
        Rc::new(HeldUp { cause, times: self.suspended(flow, site), line })
    }
}

/// Joins intervals that meet; empty ones go.
fn merge(mut times: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    times.retain(|(from_ms, to_ms)| from_ms < to_ms);
    times.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::with_capacity(times.len());
    for (from_ms, to_ms) in times {
        match merged.last_mut() {
            Some((_, end_ms)) if from_ms <= *end_ms => *end_ms = to_ms.max(*end_ms),
            _ => merged.push((from_ms, to_ms)),
        }
    }
    merged
}

impl Delivery {
    /// Mail of these orders waits from now on; mail of those that stood before goes on.
    pub fn suspend(&self, orders: Arc<StandingOrders>) {
        self.inner.parking.replace(orders);
        task::spawn(self.clone().sort_anew());
    }

    /// Flows that are to wait leave their lines; those that are not any more go where they belong.
    pub(super) async fn sort_anew(self) {
        let (queue, parking) = (&self.inner.queue, &self.inner.parking);
        let mut next = Some(0);
        let mut flows: Vec<(FlowId, Flow)> = Vec::new();
        while let Some(from) = next {
            next = queue.visit_flows(from, FLOWS_AT_ONCE, |id, flow| flows.push((id, flow)));
            for (id, flow) in flows.drain(..) {
                if let Some(line) = parking.line_for(&flow, || self.site_of(&flow)) {
                    queue.assign(id, line);
                }
            }
            task::yield_now().await;
        }
        // Its flows are announced anew, and those that are still to wait come into the next one.
        queue.close_line(parking.line.replace(queue.open_line()));
    }
}

/// Changes of orders that are remembered.
const PAST_MAX: usize = 256;
/// Flows looked at before others get a turn.
const FLOWS_AT_ONCE: u32 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_that_meet_are_one() {
        let times = vec![(5, 9), (1, 3), (3, 4), (8, 12), (20, 20), (30, 7)];
        assert_eq!(merge(times), [(1, 4), (5, 12)]);
    }
}
