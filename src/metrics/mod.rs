//! Counters and latency histograms of a shard, merged when somebody asks.
//!
//! **Owns** the numbers and their names in the Prometheus text format.
//! **Uses** `mail`. Plain cells: a shard counts alone, and gives copies away.
//! **Holds** that counting costs an addition and no atomic.
//! **Start reading** at `Metrics`; at `Partition` for the journals of mailboxes.

mod render;

use std::cell::{Cell, RefCell};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::mail::{Outcome, RecipientOutcome, ReplyClass, WaitCause};

pub use render::render;

/// A number of one shard.
#[derive(Default)]
pub struct Counter(Cell<u64>);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.set(self.0.get().wrapping_add(count));
    }

    pub fn sub(&self, count: u64) {
        self.0.set(self.0.get().wrapping_sub(count));
    }

    pub fn set(&self, value: u64) {
        self.0.set(value);
    }

    pub fn value(&self) -> u64 {
        self.0.get()
    }
}

/// Durations of one shard, in microseconds from 1 to an hour, to two digits.
pub struct Latency(RefCell<Histogram<u64>>);

impl Default for Latency {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, 2);
        Self(RefCell::new(histogram.expect("the bounds are valid")))
    }
}

impl Latency {
    pub fn snapshot(&self) -> Histogram<u64> {
        self.0.borrow().clone()
    }

    pub fn record(&self, duration: Duration) {
        let us = (duration.as_micros() as u64).clamp(1, LATENCY_US_MAX);
        self.0.borrow_mut().saturating_record(us);
    }
}

/// Replies other than 2xx of one shard, by class.
#[derive(Default)]
pub struct Replies([Counter; ReplyClass::ALL.len()]);

impl Replies {
    pub fn count(&self, class: ReplyClass) {
        self.0[class.index()].add(1);
    }
}

/// Time for which lines of one shard had ready mail, by what they waited for.
#[derive(Default)]
pub struct Waits([Counter; WaitCause::ALL.len()]);

impl Waits {
    pub fn add(&self, cause: WaitCause, ms: u64) {
        self.0[cause.index()].add(ms);
    }
}

/// Declares the numbers once: field, kind for the scrape, help.
macro_rules! numbers {
    ($($room:ident { $($field:ident $kind:ident $help:literal;)* })*) => {
        /// Every number of a shard, by room.
        #[derive(Default)]
        pub struct Metrics {
            $(pub $room: $room::Numbers,)*
            /// Recipients left Delayed or Failed, by the class of the reply.
            pub replies: Replies,
            /// Milliseconds for which lines had ready mail, by what they waited for.
            pub waits: Waits,
            /// From end of data to the frame being durable.
            pub commit_latency: Latency,
            /// From acceptance to the next hop's 250.
            pub relay_latency: Latency,
            /// From a query to its answer.
            pub dns_latency: Latency,
        }

        $(pub mod $room {
            /// Numbers of this room.
            #[derive(Default)]
            pub struct Numbers {
                $(#[doc = $help] pub $field: super::Counter,)*
            }
        })*

        impl Metrics {
            /// A copy to give away, with what the shard has of mailboxes.
            pub fn snapshot(&self, partitions: Vec<Partition>) -> Snapshot {
                Snapshot {
                    partitions,
                    values: vec![$($(self.$room.$field.value(),)*)*],
                    replies: self.replies.0.each_ref().map(Counter::value),
                    waits: self.waits.0.each_ref().map(Counter::value),
                    commit_latency: self.commit_latency.snapshot(),
                    relay_latency: self.relay_latency.snapshot(),
                    dns_latency: self.dns_latency.snapshot(),
                }
            }
        }

        /// Name, kind and help of each value of a snapshot, in order.
        const DESCRIPTIONS: &[Description] = &[$($(Description {
            room: stringify!($room),
            field: stringify!($field),
            kind: stringify!($kind),
            help: $help,
        },)*)*];
    };
}

numbers! {
    reception {
        sessions counter "SMTP sessions begun.";
        sessions_open gauge "SMTP sessions open.";
        sessions_refused counter "Sessions refused before the greeting.";
        messages_accepted counter "Messages answered 250.";
        bytes_accepted counter "Content octets of messages answered 250.";
        messages_refused counter "Messages refused after their content.";
        transactions_slowed counter "Mail transactions begun late because room gets short.";
        recipients_accepted counter "Recipients answered 250.";
        recipients_refused counter "Recipients refused.";
        tls13_sessions counter "Sessions protected by TLS 1.3.";
        tls12_sessions counter "Sessions protected by TLS 1.2.";
        tls_resumed counter "Sessions whose TLS was resumed.";
        tls_failures counter "TLS handshakes of clients that failed.";
        logins counter "Clients that logged in to submit.";
        logins_refused counter "Such logins with a wrong name or password.";
        logins_limited counter "Such logins not tried because there were too many failures.";
        reverse_paths_refused counter "Reverse-paths that were not of the account logged in.";
    }
    access {
        sessions counter "Sessions begun that read mailboxes.";
        sessions_open gauge "Sessions open that read mailboxes.";
        sessions_refused counter "Such sessions refused before the greeting.";
        sessions_moved counter "Sessions that came from another shard after their login.";
        moves_failed counter "Sessions that could not go to the shard of their mailboxes.";
        logins counter "Logins that succeeded.";
        logins_refused counter "Logins with a wrong name or password.";
        logins_limited counter "Logins not tried because there were too many failures.";
        logins_busy counter "Logins not tried because too many waited.";
        password_hashes counter "Passwords that were hashed.";
        tls13_sessions counter "Sessions protected by TLS 1.3.";
        tls12_sessions counter "Sessions protected by TLS 1.2.";
        tls_resumed counter "Sessions whose TLS was resumed.";
        tls_failures counter "TLS handshakes of clients that failed.";
        pop3_retrieved counter "Messages sent by POP3, whole or their top.";
        pop3_deleted counter "Messages deleted by POP3.";
    }
    journal {
        frames counter "Frames written.";
        flushes counter "Flushes of the log: one for each frame.";
        records counter "Records written.";
        bytes counter "Octets written to segments.";
        checkpoints counter "Checkpoints completed.";
        moved_bytes counter "Octets that compaction copied to other segments.";
        segments gauge "Segments in the pool.";
        segments_free gauge "Segments free.";
    }
    queue {
        messages gauge "Messages queued.";
        tasks gauge "Tasks queued: a message to one destination domain.";
        index_bytes gauge "Memory of the index, without content kept for the first attempt.";
        held counter "Tasks held because they cannot be read back.";
        settled counter "Messages all of whose recipients are settled.";
        delivered counter "Recipients Delivered.";
        relayed counter "Recipients Relayed.";
        delayed counter "Attempts that left a recipient Delayed.";
        failed counter "Recipients Failed.";
        notifications counter "Reports made on recipients of other messages (DSNs).";
        notifications_paced counter "Reports that wait for their turn at one address.";
        notifications_failed counter "Reports made here that Failed themselves.";
    }
    delivery {
        attempts counter "Delivery attempts of tasks.";
        mailbox_deliveries counter "Deliveries from the queue into mailboxes of this server.";
        mailbox_repeats counter "Of these, made before by this process or an earlier one.";
        connections counter "Connections opened to next hops.";
        connections_open gauge "Connections open to next hops.";
        connect_failures counter "Connections that could not be opened.";
        hosts_left counter "Messages left to another host because one could not do its work.";
        logins_refused counter "Next hops that did not take us for who we say.";
        tls13_connections counter "Connections protected by TLS 1.3.";
        tls12_connections counter "Connections protected by TLS 1.2.";
        tls_resumed counter "Connections whose TLS was resumed.";
        tls_failures counter "TLS handshakes with next hops that failed.";
        tls_policies_kept counter "Sessions with MX hosts protected as their domains ask.";
        tls_policies_broken counter "Sessions with MX hosts not protected as their domains ask.";
        tls_sessions_unreported counter "Sessions that no TLS report had room for.";
        tls_reports_written counter "TLS reports written to files.";
        tls_reports_sent counter "TLS reports sent, for each receiver.";
        tls_reports_failed counter "TLS reports given up.";
        leased_connections gauge "Connection leases that shards hold of sites owned here.";
        leased_messages gauge "Message leases that shards hold of sites owned here.";
        discoveries counter "Times the DNS was asked where the mail of a domain goes.";
        domains_known gauge "Domains of which it is remembered where their mail goes.";
        hosts_failed gauge "Addresses that are tried after others because they failed.";
        suspensions counter "Times a rule for replies slowed or suspended a site.";
        suspended gauge "Sites slowed or suspended by rules.";
    }
    dns {
        lookups counter "Questions of this shard.";
        cache_hits counter "Questions answered from the cache.";
        stale_answers counter "Questions answered past the time of the answer.";
        failures counter "Questions that nobody could answer.";
        queries counter "Queries sent to upstreams.";
        tcp_queries counter "Queries sent over TCP.";
        unanswered counter "Queries without an answer in time.";
        mismatches counter "Datagrams that answered nothing that was asked.";
        cache_entries gauge "Answers in the cache.";
        cache_bytes gauge "Memory of the cache.";
    }
}

/// Declares the numbers of partitions of mailboxes once.
macro_rules! partition_numbers {
    ($($field:ident $kind:ident $help:literal;)*) => {
        /// Numbers of one partition of mailboxes and its journal.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct PartitionNumbers {
            $(#[doc = $help] pub $field: u64,)*
        }

        impl PartitionNumbers {
            fn values(&self) -> Vec<u64> {
                vec![$(self.$field,)*]
            }
        }

        /// Name, kind and help of each value of a partition, in order.
        const PARTITION_DESCRIPTIONS: &[Description] = &[$(Description {
            room: "mailbox",
            field: stringify!($field),
            kind: stringify!($kind),
            help: $help,
        },)*];
    };
}

partition_numbers! {
    frames counter "Frames written to the journal of a partition of mailboxes.";
    flushes counter "Flushes of that journal: one for each frame and segment header.";
    records counter "Records written to it.";
    bytes counter "Octets written to its segments.";
    checkpoints counter "Checkpoints completed.";
    moved_bytes counter "Octets that compaction copied to other segments.";
    segments gauge "Segments in its pool.";
    segments_free gauge "Segments free.";
    pool_bytes gauge "Octets of its segments.";
    live_bytes gauge "Octets in them that are still needed.";
    accounts gauge "Accounts of the partition.";
    mailboxes gauge "Mailboxes of these.";
    messages gauge "Messages in these.";
    messages_kept gauge "Expunged messages that are kept for a while.";
    messages_lost gauge "Messages whose content cannot be read.";
    index_bytes gauge "Memory of the index.";
}

/// One partition of mailboxes at one moment.
#[derive(Clone, Debug)]
pub struct Partition {
    pub number: u16,
    pub numbers: PartitionNumbers,
    /// From a change to it being durable.
    pub commit_latency: Histogram<u64>,
}

impl queue::Numbers {
    /// Counts what an attempt ended in.
    pub fn count_outcomes(&self, outcomes: &[RecipientOutcome]) {
        for outcome in outcomes {
            match outcome.outcome {
                Outcome::Delivered => self.delivered.add(1),
                Outcome::Relayed => self.relayed.add(1),
                Outcome::Delayed => self.delayed.add(1),
                Outcome::Failed => self.failed.add(1),
            }
        }
    }
}

struct Description {
    room: &'static str,
    field: &'static str,
    kind: &'static str,
    help: &'static str,
}

/// The numbers of one shard at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// In the order of `DESCRIPTIONS`.
    values: Vec<u64>,
    partitions: Vec<Partition>,
    /// In the order of `ReplyClass::ALL`.
    replies: [u64; ReplyClass::ALL.len()],
    /// In the order of `WaitCause::ALL`.
    waits: [u64; WaitCause::ALL.len()],
    commit_latency: Histogram<u64>,
    relay_latency: Histogram<u64>,
    dns_latency: Histogram<u64>,
}

const LATENCY_US_MAX: u64 = 3_600_000_000;
