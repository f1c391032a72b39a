//! Mail that ends here: into the mailboxes of this server, or into Maildirs.
//!
//! There is nobody to connect to and nothing to lease. Ready tasks of such a line are taken at
//! once, as many as may be under way, and each waits for what it wrote to be durable.

mod mailboxes;
mod maildir;

use std::rc::Rc;

use xxhash_rust::xxh3::xxh3_128;

use super::Delivery;
use super::line::Line;
use super::site::Place as Counted;
use crate::limits::LOCAL_DELIVERIES_MAX;
use crate::mail::{QueueId, WaitCause};
use crate::queue::{Attempt, Remote, Task};
use crate::routing::Place;
use crate::runtime::{clock, task};

impl Delivery {
    /// Begins deliveries for what is ready in a line whose place is here.
    pub(super) fn attend_here(&self, line: &Rc<Line>) {
        let inner = &self.inner;
        let site = &line.members[0].site;
        line.note(WaitCause::Turn);
        while site.connection_count() < LOCAL_DELIVERIES_MAX
            && let Some(task) = site.take(&inner.queue)
        {
            let mut counted = Counted::open(site);
            counted.opened();
            task::spawn(self.clone().deliver_here(line.clone(), task, counted));
        }
    }

    async fn deliver_here(self, line: Rc<Line>, task: Task, counted: Counted) {
        let inner = &self.inner;
        let site = &line.members[0].site;
        let started = clock::now();
        let delivered = match inner.queue.load(task).await {
            Ok(message) => {
                let delivered = match &site.key.hop.place {
                    Place::Maildir(pattern) => {
                        inner.to_maildirs(pattern, &message).await.map(|replies| (replies, None))
                    }
                    Place::Mailboxes => inner.to_mailboxes(&message).await,
                    _ => unreachable!("other places are connected to"),
                };
                delivered.map(|(replies, onward)| (message, replies, onward))
            }
            Err(error) => Err(error),
        };
        match delivered {
            Ok((message, replies, onward)) => {
                let mut attempt = Attempt::without_session(site.name.clone());
                let (address, host) = (None, None);
                attempt.remote = Some(Remote { address, host, delivers: true, offers_dsn: false });
                let (outcomes, attempt) =
                    inner.ended(task, &message, replies, started, attempt, site);
                inner.queue.settle_and_send_on(task, &message, outcomes, attempt, onward);
            }
            Err(error) => inner.queue.hold(task, &error),
        }
        drop(counted);
        self.attend_lines(site);
    }
}

/// By which a delivery of a message to somebody is known again, also by another process.
fn delivery_key(store: u128, message: QueueId, to: &str) -> u128 {
    let mut text = store.to_be_bytes().to_vec();
    text.extend_from_slice(&message.shard.to_be_bytes());
    text.extend_from_slice(&message.message.to_be_bytes());
    text.extend_from_slice(to.as_bytes());
    xxh3_128(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_delivery_makes_another_key() {
        let key = |store, shard, message, to| {
            delivery_key(store, QueueId { node: 0, shard, message }, to)
        };
        let one = key(1, 2, 3, "a@b.test");
        assert_eq!(one, key(1, 2, 3, "a@b.test"));
        let others = [key(2, 2, 3, "a@b.test"), key(1, 3, 3, "a@b.test"), key(1, 2, 4, "a@b.test")];
        assert!(others.iter().all(|it| *it != one) && key(1, 2, 3, "b@b.test") != one);
    }
}
