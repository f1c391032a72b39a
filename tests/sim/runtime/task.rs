//! Tasks of the simulated executor.

use std::future::Future;

use super::executor;
pub use ringpost::runtime::task::{join_all, yield_once};
// To this executor events come by themselves.
pub use ringpost::runtime::task::yield_once as yield_now;

pub fn spawn(future: impl Future<Output = ()> + 'static) {
    executor::spawn(Box::pin(future));
}

/// A panic in any task ends the run.
pub fn spawn_vital(future: impl Future<Output = ()> + 'static) {
    executor::spawn(Box::pin(future));
}
