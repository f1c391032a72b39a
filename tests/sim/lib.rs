//! The durable rooms of ringpost over another runtime: their sources are those of the server, and
//! what is below them is simulated from a seed.
//!
//! **Owns** a disk that loses what was not synced, a clock that moves when nothing else does, and
//! the executor and log ring over these.
//! **Uses** every room below `runtime` as it is.
//! **Holds** that the same seed is the same run, and that no source of the server knows of this.
//! What is added to one of these rooms, or to what they use of `runtime`, is added here as well.
//! **Start reading** at `runtime::executor`, then `journal::tap`.
// The unit tests of these sources run where the sources are at home.
#![cfg(not(test))]

pub use ringpost::{config, limits, mail, metrics, proto, routing};

pub mod disk;
pub mod event;
pub mod rng;
pub mod runtime;

/// The room `fsck` of the server.
#[path = "../../src/fsck/mod.rs"]
pub mod fsck;

/// The room `journal` of the server, but for the files: those are on the simulated disk.
#[path = "../../src/journal"]
pub mod journal {
    pub mod checkpoint;
    pub mod core;
    pub mod format;
    mod log;
    #[path = "../../tests/sim/journal/open.rs"]
    mod open;
    pub mod payload;
    pub mod recovery;
    mod scan;
    pub mod space;
    #[path = "../../tests/sim/journal/tap.rs"]
    pub mod tap;
    pub mod upkeep;

    pub use core::{Append, AppendError, Appended, Counters, Location, Ticket};
    pub use format::{Record, flag, kind};
    pub use log::{ReadError, RecordBuffer};
    pub use recovery::{Recovery, Replay, Replayed};
    pub use space::{Level, Space};
    pub use tap::Journal;
}

/// The room `queue` of the server, and a look into its index.
#[path = "../../src/queue"]
pub mod queue {
    #[path = "../../tests/sim/audit.rs"]
    pub mod audit;
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
}

/// The room `mailbox` of the server.
#[path = "../../src/mailbox"]
pub mod mailbox {
    mod bodies;
    mod checkpoint;
    pub mod codec;
    mod compaction;
    mod content;
    mod date;
    mod draft;
    mod index;
    pub mod items;
    mod mend;
    pub mod partition;
    pub mod plan;
    mod recovery;
    mod store;
    mod summaries;
    mod summary_blocks;
    mod summary_files;

    pub use content::{Content, ContentError, Piece};
    pub use date::InternalDate;
    pub use draft::Draft;
    pub use index::{Entry, Mailbox, Status};
    pub use mend::Mend;
    pub use partition::{Account, Change, Deleted, Kept, Partition, Usage};
    pub use plan::{Delivered, Delivery, Expunging, Planned, Refusal, Target};
    pub use recovery::Recovered;
    pub use store::{Author, Changes, Copied, StartError, Store, Stored, Watch};
    pub use summaries::KeptSummary;
}

/// Of the room `delivery` of the server what shares the limits of sites out.
#[path = "../../src/delivery"]
pub mod delivery {
    pub mod lease;
}

/// What is wrong with the world around the queue. The sources of the server have no such switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    None,
    /// A frame counts as durable as soon as it was sent off (I1).
    ReportsEarly,
    /// Failed and its DSN go in two frames (I13).
    SplitsFailed,
    /// What a recipient leads on to goes into the queue before the outcome is recorded (I13).
    SendsOnApart,
    /// Items of a checkpoint are appended when what they say is no longer so (I7).
    StaleItems,
    /// What replay gives to the index lacks the time of the next attempt.
    ForgetsDue,
    /// What replay gives to the index lacks what an operator changed.
    ForgetsChange,
    /// A task that was not tried is put back twice.
    PutsBackTwice,
    /// A task is tried again though its outcome was taken.
    SendsAgain,
    /// A new process does not wait for what its predecessor sent (I15).
    ForgetsWindow,
    /// A message's token is reported used when its MAIL is sent (I15).
    ReturnsEarly,
    /// A task is taken before its time has come.
    HurriesClock,
    /// What replay gives to a partition of mailboxes lacks what was expunged.
    ForgetsExpunged,
    /// What replay gives to a partition of mailboxes lacks changes of flags.
    ForgetsFlags,
    /// A read of content that fails is reported as one that brought zeros.
    HidesReadErrors,
    /// A read of a recovery that fails is reported as one that brought zeros.
    HidesRecoveryErrors,
    /// A partition of mailboxes is not told that frames cannot be read.
    ForgetsRot,
    /// What comes behind a damaged frame is lost with it.
    LosesBehindRot,
}
