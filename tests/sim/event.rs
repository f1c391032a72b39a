//! The log of outcomes, in memory, and lines of standard error as they are.

use std::cell::RefCell;
use std::rc::Rc;

pub(crate) use notice::notice;
pub use ringpost::event::{Format, OrderRecord, OutcomeRecord};

/// Lines of standard error.
pub mod notice {
    macro_rules! notice {
        ($($argument:tt)*) => { ringpost::event::notice::say(format!($($argument)*)) };
    }
    pub(crate) use notice;
}

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
