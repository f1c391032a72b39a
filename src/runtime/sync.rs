//! Waiting for one another within an executor: no atomics, no threads.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A bell. A `notify_one` without a waiter is remembered, once; with several it wakes the one that
/// came last, whose memory is the warmest.
#[derive(Default)]
pub struct Notify {
    state: RefCell<NotifyState>,
}

#[derive(Default)]
struct NotifyState {
    rung: bool,
    /// Waiters by ticket, oldest first.
    waiters: std::collections::VecDeque<(u64, Waker)>,
    next_ticket: u64,
}

impl Notify {
    pub fn notify_one(&self) {
        let waiter = {
            let mut state = self.state.borrow_mut();
            state.rung = true;
            state.waiters.pop_back()
        };
        if let Some((_, waker)) = waiter {
            waker.wake();
        }
    }

    /// Wakes all that wait now; nothing is remembered for those that come later.
    pub fn notify_all(&self) {
        let waiters = std::mem::take(&mut self.state.borrow_mut().waiters);
        for (_, waker) in waiters {
            waker.wake();
        }
    }

    /// Suspends until notified. May resume without cause: look again at what you wait for.
    pub fn notified(&self) -> Notified<'_> {
        Notified { notify: self, ticket: None }
    }
}

/// Future of `Notify::notified`. Dropping it gives its place up.
pub struct Notified<'a> {
    notify: &'a Notify,
    ticket: Option<u64>,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.notify.state.borrow_mut();
        if std::mem::take(&mut state.rung) {
            drop(state);
            return Poll::Ready(());
        }
        match self.ticket {
            None => {
                let ticket = state.next_ticket;
                state.next_ticket += 1;
                state.waiters.push_back((ticket, context.waker().clone()));
                drop(state);
                self.ticket = Some(ticket);
                Poll::Pending
            }
            Some(ticket) => match state.waiters.iter_mut().find(|waiter| waiter.0 == ticket) {
                Some(waiter) => {
                    waiter.1.clone_from(context.waker());
                    Poll::Pending
                }
                None => Poll::Ready(()),
            },
        }
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.notify.state.borrow_mut().waiters.retain(|waiter| waiter.0 != ticket);
        }
    }
}

/// Suspends until both futures are done.
pub use futures_lite::future::zip;

/// Suspends until either future is done, and drops the other; the first one where both are.
pub use futures_lite::future::or;

/// Suspends until all of `futures` are done, and gives their values in order. For a few futures:
/// whoever is woken polls each that is not done.
pub async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(|it| Some(Box::pin(it))).collect();
    let mut values: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        let mut all_done = true;
        for (future, value) in futures.iter_mut().zip(&mut values) {
            let Some(pending) = future else { continue };
            match pending.as_mut().poll(context) {
                Poll::Ready(output) => {
                    *value = Some(output);
                    *future = None;
                }
                Poll::Pending => all_done = false,
            }
        }
        if all_done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    values.into_iter().map(|value| value.expect("each future is done")).collect()
}

/// One value, once, from one task to another of the same executor.
pub fn oneshot<T>() -> (Sender<T>, Receiver<T>) {
    let slot = Rc::new(RefCell::new(Slot { value: None, waker: None, closed: false }));
    (Sender { slot: slot.clone() }, Receiver { slot })
}

struct Slot<T> {
    value: Option<T>,
    waker: Option<Waker>,
    closed: bool,
}

/// Dropping it without sending gives the receiver `None`.
pub struct Sender<T> {
    slot: Rc<RefCell<Slot<T>>>,
}

impl<T> Sender<T> {
    pub fn send(self, value: T) {
        self.slot.borrow_mut().value = Some(value);
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut slot = self.slot.borrow_mut();
            slot.closed = true;
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

pub struct Receiver<T> {
    slot: Rc<RefCell<Slot<T>>>,
}

impl<T> Future for Receiver<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut slot = self.slot.borrow_mut();
        if slot.closed {
            return Poll::Ready(slot.value.take());
        }
        slot.waker = Some(context.waker().clone());
        Poll::Pending
    }
}
