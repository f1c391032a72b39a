use super::*;
use std::time::Duration;

use crate::config::Config;
use crate::mail::envelope::Notify;
use crate::mail::{Envelope, EnvelopeFlags, Recipient};

fn at(block: u16) -> Location {
    Location { slot: 3, block, epoch_low: 9, in_frame: 64, record_bytes: 240 }
}

fn envelope(recipients: &[&str]) -> Envelope {
    let recipient = |address: &&str| Recipient {
        address: (**address).into(),
        original_recipient: None,
        notify: Notify::DEFAULT,
    };
    Envelope {
        reverse_path: "news@Sender.test".into(),
        recipients: recipients.iter().map(recipient).collect(),
        flags: EnvelopeFlags::default(),
        accepted_ms: 1_700_000_000_000,
        release_ms: 0,
        stream: Stream::default(),
        envelope_id: None,
        client: None,
        header_prefix: Vec::new(),
        content_bytes: 1_000,
        content_hash: 0,
    }
}

/// Memory a message takes when `count` of them with one recipient each, over 100 domains, are
/// ready, and when all wait Delayed.
fn bytes_a_message(count: u64) -> [f64; 2] {
    let mut index = Index::default();
    index.begin(1_700_000_000_000);
    let mut envelope = envelope(&["x@y"]);
    for id in 1..=count {
        envelope.recipients[0].address = format!("someone@domain-{}.test", id % 100).into();
        envelope.accepted_ms += 3;
        let slot = index.insert(Outline::of_fresh(id, at(1), Vec::new(), &envelope));
        let task = index.first_task(slot).expect("one");
        index.make_ready(task);
    }
    let line = index.open_line();
    while let Some(announcement) = index.poll_announcement() {
        if let schedule::Announcement::Flow(flow) = announcement {
            index.assign(flow, line);
        }
    }
    let ready = index.bytes();
    while let Some(task) = index.take(line, 0) {
        let due_ms = 1_700_000_000_000 + task.message * 7;
        let standing = Standing { due_ms, attempts: 1, record: Some(at(2)), ..Standing::default() };
        index.set_standing(task.slot, &standing);
        index.make_delayed(task.slot, due_ms);
    }
    let counts = Counts { delayed: count as usize, ..Counts::default() };
    assert_eq!((index.counts(), index.message_count()), (counts, count as usize));
    [ready, index.bytes()].map(|bytes| bytes as f64 / count as f64)
}

#[test]
fn a_message_costs_at_most_104_bytes() {
    // With 57,408 of 65,536 in use the tables have just doubled.
    for count in [57_408, 100_000, 1_000_000] {
        let bytes = bytes_a_message(count);
        println!("{count} messages: {bytes:.1?} bytes each, ready and Delayed");
        assert!(bytes.iter().all(|bytes| *bytes <= 104.0), "{count} messages: {bytes:?}");
    }
}

#[test]
fn a_held_task_that_an_order_has_in_hand_is_held_for_a_checkpoint() {
    let mut index = Index::default();
    let slot = index.insert(Outline::of_fresh(1, at(1), Vec::new(), &envelope(&["a@b.test"])));
    let task = index.handle(index.first_task(slot).expect("one"));
    index.hold(task.slot);
    let says_held = |index: &Index| index.outline(slot).tasks[0].standing.is_held;
    assert_eq!(index.claim(task, |_| true), Some(TaskState::Held));
    assert_eq!((index.task(task.slot).state(), says_held(&index)), (TaskState::InFlight, true));
    assert_eq!(index.claim(task, |_| true), None, "it is in one hand");
    index.set_standing(task.slot, &Standing::default());
    assert_eq!((index.task(task.slot).state(), says_held(&index)), (TaskState::InFlight, false));
    assert_eq!(index.counts(), Counts { in_flight: 1, ..Counts::default() });
}

#[test]
fn memory_follows_the_count_down() {
    let mut index = Index::default();
    let envelope = envelope(&["a@b.test"]);
    for id in 1..=100_000 {
        index.insert(Outline::of_fresh(id, at(1), Vec::new(), &envelope));
    }
    let full = index.bytes();
    for id in 1..=90_000 {
        let slot = index.find(id).expect("there");
        let task = index.first_task(slot).expect("one");
        let (_, message) = index.close_task(task);
        index.remove(message.expect("the last task"));
    }
    assert!(index.bytes() * 4 < full, "{} of {full} bytes", index.bytes());
    assert_eq!((index.find(1), index.message_count()), (None, 10_000));
}

#[test]
fn a_message_is_entered_again_from_its_outline() {
    let recipients = ["a@B.test", "b@c.test", "c@b.test", "d@d.test"];
    let mut envelope = envelope(&recipients);
    envelope.stream.tenant = "acme".into();
    let mut index = Index::default();
    let outline = Outline::of_fresh(7, at(1), vec![at(5), at(6)], &envelope);
    let domains: Vec<&str> = outline.tasks.iter().map(|task| &*task.domain).collect();
    assert_eq!((domains, &*outline.sender), (vec!["b.test", "c.test", "d.test"], "sender.test"));
    assert_eq!(outline.tasks[0].cost, 1);
    let slot = index.insert(outline.clone());
    assert_eq!(index.outline(slot), outline);
    let tasks: Vec<u32> = index.tasks_of(slot).collect();
    let standing = Standing {
        due_ms: 1_700_000_000_123,
        attempts: 3,
        is_held: false,
        possible_duplicate: true,
        delay_notified: true,
        is_partial: true,
        record: Some(at(9)),
    };
    assert_eq!(index.set_standing(tasks[2], &standing), None);
    let held = Standing { is_held: true, record: Some(at(10)), ..standing };
    index.set_standing(tasks[0], &held);
    index.close_task(tasks[1]);
    let mut again = Index::default();
    let outline = index.outline(slot);
    let numbers: Vec<u16> = outline.tasks.iter().map(|task| task.number).collect();
    assert_eq!(numbers, [0, 2]);
    let slot = again.insert(outline.clone());
    assert_eq!(again.outline(slot), outline);
    assert_eq!(again.counts(), Counts { in_flight: 1, held: 1, ..Counts::default() });
    let last = again.tasks_of(slot).nth(1).expect("two");
    let replaced = again.set_standing(last, &standing);
    assert_eq!(replaced, Some(at(9)), "to be unpinned");
}

#[test]
fn the_lifetime_counts_from_acceptance_or_release_and_follows_from_domain_and_stream() {
    let mut index = Index::default();
    let mut envelope = envelope(&["a@b.test"]);
    index.begin(envelope.accepted_ms);
    index.insert(Outline::of_fresh(1, at(1), Vec::new(), &envelope));
    envelope.release_ms = envelope.accepted_ms + 500_000;
    index.insert(Outline::of_fresh(2, at(1), Vec::new(), &envelope));
    for id in [1, 2] {
        let slot = index.find(id).expect("there");
        let task = index.first_task(slot).expect("one");
        index.make_delayed(task, envelope.release_ms);
    }
    let mut overdue = Overdue::default();
    let policy_of = |domain: &str, stream: &Stream| {
        assert_eq!((domain, stream), ("b.test", &envelope.stream));
        policy(400, None)
    };
    let released = index.release_due(envelope.release_ms + 64, policy_of, 9_999, &mut overdue);
    assert_eq!(released, Released { ready_count: 1, is_all: true });
    assert_eq!(overdue.expired.iter().map(|task| task.message).collect::<Vec<_>>(), [1]);
    assert!(overdue.untold.is_empty());
    assert_eq!(index.oldest_ms(), Some(envelope.accepted_ms));
}

#[test]
fn ready_tasks_that_nobody_serves_end_and_tell_of_their_delay_in_time() {
    let mut index = Index::default();
    let mut envelope = envelope(&["a@b.test"]);
    index.begin(envelope.accepted_ms);
    for id in 1..=10 {
        let slot = index.insert(Outline::of_fresh(id, at(1), Vec::new(), &envelope));
        index.make_ready(index.first_task(slot).expect("one"));
        envelope.accepted_ms += 10_000;
    }
    let begin_ms = envelope.accepted_ms - 100_000;
    let mut claim = |from, count, after_ms| {
        let mut overdue = Overdue::default();
        let policy_of = |_: &str, _: &Stream| policy(400, Some(100));
        let now_ms = begin_ms + after_ms;
        let next = index.claim_overdue(from, count, now_ms, policy_of, &mut overdue);
        let messages = |tasks: &[Task]| tasks.iter().map(|it| it.message).collect::<Vec<_>>();
        let claimed = (messages(&overdue.untold), messages(&overdue.expired));
        for task in overdue.untold {
            index.set_delay_notified(task.slot);
            index.make_ready_first(task.slot);
        }
        (next, claimed.0, claimed.1)
    };
    assert_eq!(claim(0, 6, 100_000), (6, vec![], vec![]));
    assert_eq!(claim(6, 9_999, 100_000), (0, vec![], vec![]), "from the start again");
    assert_eq!(claim(0, 9_999, 121_000), (0, vec![1, 2, 3], vec![]));
    assert_eq!(claim(0, 9_999, 121_000), (0, vec![], vec![]), "once each");
    assert_eq!(claim(0, 9_999, 421_000), (0, vec![4, 5, 6, 7, 8, 9, 10], vec![1, 2, 3]));
    assert_eq!(index.counts(), Counts { ready: 7, in_flight: 3, ..Counts::default() });
    let line = index.open_line();
    let Some(schedule::Announcement::Flow(flow)) = index.poll_announcement() else { panic!() };
    index.assign(flow, line);
    assert_eq!(index.ready_count(line), 7);
}

fn policy(lifetime_s: u64, delay_notice_s: Option<u64>) -> RetryPolicy {
    let lifetime = Duration::from_secs(lifetime_s);
    let delay_notice = delay_notice_s.map(Duration::from_secs);
    RetryPolicy { lifetime, delay_notice, ..Config::embedded().queue.retry() }
}

#[test]
fn a_delay_is_to_be_told_of_once_where_it_is_asked_for_or_policy() {
    let check = |notify: u8, delay_notice_s: Option<u64>, age_s: u64, is_told: bool| {
        let mut index = Index::default();
        let mut envelope = envelope(&["a@b.test"]);
        envelope.recipients[0].notify = Notify(notify);
        let now_ms = envelope.accepted_ms + age_s * 1000;
        index.begin(now_ms - 1000);
        let slot = index.insert(Outline::of_fresh(1, at(1), Vec::new(), &envelope));
        let task = index.first_task(slot).expect("one");
        if is_told {
            index.set_delay_notified(task);
        }
        index.make_delayed(task, now_ms - 500);
        let mut overdue = Overdue::default();
        let policy = policy(1_000_000, delay_notice_s);
        let released = index.release_due(now_ms, |_, _| policy, 9_999, &mut overdue);
        assert_eq!(released.ready_count + overdue.untold.len(), 1);
        overdue.untold.len() == 1
    };
    let delay = Notify::DELAY;
    for (notify, delay_notice_s, age_s, expected) in [
        (0, None, 20_000, false),
        (delay, None, 14_399, false),
        (delay, None, 14_402, true),
        (0, Some(600), 599, false),
        (0, Some(600), 602, true),
        (delay, Some(600), 602, true),
    ] {
        assert_eq!(check(notify, delay_notice_s, age_s, false), expected, "{notify} {age_s}");
        assert!(!check(notify, delay_notice_s, age_s, true));
    }
}
