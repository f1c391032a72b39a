//! Durable queue: from the first octet of content to the last settled recipient.
//!
//! **Owns** the index of messages at home on this shard, the schedule over it, and what the
//! records ENVELOPE, CONTENT, STATE and RETIRED mean.
//! **Uses** `journal`, `proto::dsn`, `metrics`, `event`. Never `reception` or `delivery`.
//! **Holds** that a `QueueId` is handed out only after its frame is durable, that a recipient ends
//! in one final state, and that Failed and its DSN commit in one frame.
//! **Start reading** at `intake::Draft`, the only entrance, then `outcome`, the only way out.

mod checkpoint;
pub mod codec;
mod compaction;
mod index;
mod intake;
pub mod items;
pub mod ledger;
mod notification;
mod outcome;
mod outline;
mod pace;
mod place;
mod recovery;
mod retry;
pub mod schedule;
pub mod selection;
mod slab;
pub mod standing;
mod steering;
mod store;
pub mod survey;

pub use index::{Task, TaskState};
pub use intake::{Draft, Prepared, Refusal};
pub use outcome::{Attempt, IN_DOUBT_WAIT, Remote, Reports};
pub use recovery::Recovered;
pub use schedule::{Announcement, Flow, FlowId, LineId};
pub use selection::{Conditions, ReversePathPattern, Selection};
pub use standing::{StandingOrder, StandingOrders};
pub use steering::{Mode, Obstacles, Order, Sites, Steered};
pub use store::{Content, LoadError, Message, MessageView, Octets, Queue, Stats};
