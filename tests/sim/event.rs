//! The log of outcomes, in memory.

use std::cell::RefCell;
use std::rc::Rc;

pub use ringpost::event::{Format, OrderRecord, OutcomeRecord};

/// Keeps lines until somebody takes them. Clones are the same.
#[derive(Clone, Default)]
pub struct LogSink {
    lines: Rc<RefCell<Vec<u8>>>,
}

impl LogSink {
    pub fn append(&self, lines: Vec<u8>) {
        self.lines.borrow_mut().extend(lines);
    }

    /// What was appended since.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.lines.borrow_mut())
    }
}
