//! The runtime of the simulation: what the rooms above it name, without a kernel.

pub mod clock;
pub mod executor;
pub mod log_ring;
pub mod task;
pub mod thread;
pub mod timer;

pub use ringpost::runtime::{aligned, blocking, inbox, segment_file, sync, whole_file};
