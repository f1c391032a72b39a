//! Snapshots as Prometheus reads them (text format 0.0.4).

use std::fmt::Write;

use hdrhistogram::Histogram;

use super::{DESCRIPTIONS, PARTITION_DESCRIPTIONS, Snapshot};
use crate::mail::{ReplyClass, WaitCause};

/// Renders the snapshots of shards (0-based), by shard for counts, merged for latencies.
pub fn render(shards: &[(usize, Snapshot)]) -> String {
    let mut text = String::new();
    for (index, it) in DESCRIPTIONS.iter().enumerate() {
        let suffix = if it.kind == "counter" { "_total" } else { "" };
        let name = format!("ringpost_{}_{}{suffix}", it.room, it.field);
        // Writing into memory does not fail.
        let _ = writeln!(text, "# HELP {name} {}", it.help);
        let _ = writeln!(text, "# TYPE {name} {}", it.kind);
        for (shard, snapshot) in shards {
            let _ = writeln!(text, "{name}{{shard=\"{shard}\"}} {}", snapshot.values[index]);
        }
    }
    render_partitions(&mut text, shards);
    render_replies(&mut text, shards);
    render_waits(&mut text, shards);
    let of_shards = |of: fn(&Snapshot) -> &Histogram<u64>| shards.iter().map(move |it| of(&it.1));
    let commit = "From end of data to the frame being durable.";
    render_latency(&mut text, "commit", commit, of_shards(|it| &it.commit_latency));
    let relay = "From acceptance to the 250 of the next hop.";
    render_latency(&mut text, "relay", relay, of_shards(|it| &it.relay_latency));
    let dns = "From a query to an upstream to its answer.";
    render_latency(&mut text, "dns", dns, of_shards(|it| &it.dns_latency));
    let mailbox = "From a change to mailboxes to its frame being durable.";
    let partitions = shards.iter().flat_map(|(_, snapshot)| &snapshot.partitions);
    let latencies = partitions.map(|partition| &partition.commit_latency);
    render_latency(&mut text, "mailbox_commit", mailbox, latencies);
    text
}

fn render_partitions(text: &mut String, shards: &[(usize, Snapshot)]) {
    let partitions = shards.iter().flat_map(|(shard, snapshot)| {
        snapshot.partitions.iter().map(move |it| (shard, it.number, it.numbers.values()))
    });
    let partitions: Vec<(&usize, u16, Vec<u64>)> = partitions.collect();
    if partitions.is_empty() {
        return;
    }
    for (index, it) in PARTITION_DESCRIPTIONS.iter().enumerate() {
        let suffix = if it.kind == "counter" { "_total" } else { "" };
        let name = format!("ringpost_{}_{}{suffix}", it.room, it.field);
        let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} {}", it.help, it.kind);
        for (shard, number, values) in &partitions {
            let labels = format!("partition=\"{number}\",shard=\"{shard}\"");
            let _ = writeln!(text, "{name}{{{labels}}} {}", values[index]);
        }
    }
}

/// Every class at every time: a rate over a line that appears later would miss its first.
fn render_replies(text: &mut String, shards: &[(usize, Snapshot)]) {
    let name = "ringpost_delivery_replies_total";
    let help = "Recipients left Delayed or Failed, by the class of the reply.";
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
    for class in ReplyClass::ALL {
        for (shard, snapshot) in shards {
            let (class, count) = (class.as_str(), snapshot.replies[class.index()]);
            let _ = writeln!(text, "{name}{{class=\"{class}\",shard=\"{shard}\"}} {count}");
        }
    }
}

fn render_waits(text: &mut String, shards: &[(usize, Snapshot)]) {
    let name = "ringpost_delivery_wait_seconds_total";
    let help = "Time for which lines had ready mail, by what they waited for.";
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
    for cause in WaitCause::ALL {
        for (shard, snapshot) in shards {
            let (cause, ms) = (cause.as_str(), snapshot.waits[cause.index()]);
            let seconds = ms as f64 / 1e3;
            let _ = writeln!(text, "{name}{{cause=\"{cause}\",shard=\"{shard}\"}} {seconds}");
        }
    }
}

fn render_latency<'a>(
    text: &mut String,
    what: &str,
    help: &str,
    mut latencies: impl Iterator<Item = &'a Histogram<u64>>,
) {
    let Some(first) = latencies.next() else { return };
    let mut merged = first.clone();
    for latency in latencies {
        merged.add(latency).expect("histograms of one shape");
    }
    let name = format!("ringpost_{what}_latency_seconds");
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
    for bound_us in BOUNDS_US {
        let count = merged.count_between(0, *bound_us);
        let _ = writeln!(text, "{name}_bucket{{le=\"{}\"}} {count}", *bound_us as f64 / 1e6);
    }
    let count = merged.len();
    let sum = merged.mean() * count as f64 / 1e6;
    let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {count}");
    let _ = writeln!(text, "{name}_sum {sum}\n{name}_count {count}");
}

/// From a tenth of a millisecond to the end of what is recorded.
const BOUNDS_US: &[u64] = &[
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    60_000_000,
    600_000_000,
    3_600_000_000,
];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::{Latency, Metrics, Partition, PartitionNumbers};

    #[test]
    fn shards_are_told_apart_and_latencies_are_merged() {
        let (one, two) = (Metrics::default(), Metrics::default());
        one.reception.messages_accepted.add(3);
        two.journal.flushes.add(7);
        two.replies.count(ReplyClass::MailboxFull);
        two.waits.add(WaitCause::MessageRate, 1500);
        one.commit_latency.record(Duration::from_millis(2));
        two.commit_latency.record(Duration::from_millis(200));
        let of_partition = |number, messages| {
            let numbers = PartitionNumbers { messages, frames: 4, ..PartitionNumbers::default() };
            let latency = Latency::default();
            latency.record(Duration::from_millis(2));
            Partition { number, numbers, commit_latency: latency.snapshot() }
        };
        let of_two = vec![of_partition(1, 8), of_partition(3, 9)];
        let text = render(&[(0, one.snapshot(Vec::new())), (1, two.snapshot(of_two))]);
        for line in [
            "ringpost_reception_messages_accepted_total{shard=\"0\"} 3",
            "ringpost_journal_flushes_total{shard=\"1\"} 7",
            "ringpost_delivery_replies_total{class=\"mailbox-full\",shard=\"1\"} 1",
            "ringpost_delivery_replies_total{class=\"mailbox-full\",shard=\"0\"} 0",
            "ringpost_delivery_wait_seconds_total{cause=\"message-rate\",shard=\"1\"} 1.5",
            "ringpost_commit_latency_seconds_bucket{le=\"0.001\"} 0",
            "ringpost_commit_latency_seconds_bucket{le=\"0.0025\"} 1",
            "ringpost_commit_latency_seconds_count 2",
            "# TYPE ringpost_queue_messages gauge",
            "ringpost_mailbox_messages{partition=\"3\",shard=\"1\"} 9",
            "ringpost_mailbox_frames_total{partition=\"1\",shard=\"1\"} 4",
            "ringpost_mailbox_commit_latency_seconds_count 2",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
        }
    }
}
