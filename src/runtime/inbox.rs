//! A bounded ring from any thread into one executor.
//!
//! A full inbox refuses: the sender keeps its message and decides. The executor is woken only when
//! it waits, so a batch costs one wake-up.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use crossbeam_queue::ArrayQueue;

/// Makes an inbox of `capacity` messages.
pub fn inbox<T: Send>(capacity: usize) -> (InboxSender<T>, Inbox<T>) {
    let shared = Arc::new(Shared {
        ring: ArrayQueue::new(capacity),
        parked: AtomicBool::new(false),
        waker: Mutex::new(None),
    });
    (InboxSender { shared: shared.clone() }, Inbox { shared })
}

struct Shared<T> {
    ring: ArrayQueue<T>,
    /// Set by the receiver before its last look; whoever clears it wakes.
    parked: AtomicBool,
    /// Touched only round a wake-up, never for a message.
    waker: Mutex<Option<Waker>>,
}

/// The sending end, for any thread.
pub struct InboxSender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for InboxSender<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<T> InboxSender<T> {
    /// Gives the message back when the inbox is full. Never waits.
    pub fn try_send(&self, message: T) -> Result<(), T> {
        self.shared.ring.push(message)?;
        if self.shared.parked.swap(false, Ordering::SeqCst)
            && let Some(waker) =
                self.shared.waker.lock().unwrap_or_else(PoisonError::into_inner).as_ref()
        {
            waker.wake_by_ref();
        }
        Ok(())
    }
}

/// The receiving end: one task of one executor.
pub struct Inbox<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Inbox<T> {
    /// Suspends until there is a message. Dropping the future loses none.
    pub async fn recv(&mut self) -> T {
        poll_fn(|context| {
            if let Some(message) = self.shared.ring.pop() {
                return Poll::Ready(message);
            }
            {
                let mut kept = self.shared.waker.lock().unwrap_or_else(PoisonError::into_inner);
                match kept.as_ref() {
                    Some(kept) if kept.will_wake(context.waker()) => {}
                    _ => *kept = Some(context.waker().clone()),
                }
            }
            self.shared.parked.store(true, Ordering::SeqCst);
            match self.shared.ring.pop() {
                Some(message) => {
                    self.shared.parked.store(false, Ordering::SeqCst);
                    Poll::Ready(message)
                }
                None => Poll::Pending,
            }
        })
        .await
    }

    /// A message that is there already.
    pub fn try_recv(&mut self) -> Option<T> {
        self.shared.ring.pop()
    }

    /// Moves at most `count_max` waiting messages to the end of `messages`.
    pub fn drain(&mut self, messages: &mut Vec<T>, count_max: usize) {
        for _ in 0..count_max {
            match self.shared.ring.pop() {
                Some(message) => messages.push(message),
                None => break,
            }
        }
    }
}
