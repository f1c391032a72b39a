//! One shard from its journal to its end.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::ask::{self, Ask};
use super::memo::Memo;
use crate::config::Config;
use crate::delivery::Delivery;
use crate::event::LogSink;
use crate::journal::{Journal, JournalConfig, OpenError, Recovery};
use crate::metrics::Metrics;
use crate::queue::{Queue, Recovered};
use crate::reception::{ClientMemo, Reception};
use crate::runtime::inbox::{Inbox, InboxSender};
use crate::runtime::net::BoundListener;
use crate::runtime::{task, timer};

/// The way to every shard, this one included.
pub struct Neighbours {
    pub shard: usize,
    pub senders: Vec<InboxSender<Memo>>,
}

/// What a shard found when it opened its journal.
pub struct Opened {
    pub message_count: usize,
    pub recovery: Recovery,
}
