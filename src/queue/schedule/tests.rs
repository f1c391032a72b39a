use super::*;
use crate::mail::{Class, TlsTag};

/// Tasks without messages.
#[derive(Default)]
struct Fakes(Vec<Fake>);

struct Fake {
    links: Links,
    list: u16,
    flow: u32,
    cost: u8,
}

impl Chain for Fakes {
    fn links(&mut self, slot: u32) -> &mut Links {
        &mut self.0[slot as usize].links
    }
}

impl Waiting for Fakes {
    fn due_ms(&self, _: u32) -> u64 {
        0
    }

    fn list(&mut self, slot: u32) -> &mut u16 {
        &mut self.0[slot as usize].list
    }
}

impl Tasks for Fakes {
    fn flow(&self, slot: u32) -> u32 {
        self.0[slot as usize].flow
    }

    fn cost(&self, slot: u32) -> u8 {
        self.0[slot as usize].cost
    }
}

/// A schedule, its tasks, and one line that everything is assigned to.
struct Bench {
    schedule: Schedule,
    tasks: Fakes,
    line: LineId,
}

impl Bench {
    fn new() -> Bench {
        let mut schedule = Schedule::default();
        let line = schedule.open_line();
        Bench { schedule, tasks: Fakes::default(), line }
    }

    /// `count` ready tasks of one flow; returns the first of them.
    fn add(&mut self, count: usize, domain: &str, stream: &Stream, sender: &str, cost: u8) -> u32 {
        let first = self.tasks.0.len() as u32;
        for slot in (first..).take(count) {
            let flow = self.schedule.enter(domain, stream, sender, None);
            self.tasks.0.push(Fake { links: Links::default(), list: 0, flow, cost });
            self.schedule.push_ready(&mut self.tasks, slot);
        }
        self.assign_all();
        first
    }

    fn assign_all(&mut self) {
        while let Some(announcement) = self.schedule.poll_announcement() {
            if let Announcement::Flow(flow) = announcement {
                self.schedule.assign(flow, self.line);
            }
        }
    }

    fn take(&mut self) -> Option<u32> {
        self.schedule.take(&mut self.tasks, self.line)
    }

    /// Of the next `count` tasks, how many come from each of these flows.
    fn shares(&mut self, count: usize, firsts: &[u32]) -> Vec<usize> {
        let mut shares = vec![0; firsts.len()];
        for _ in 0..count {
            let task = self.take().expect("enough is ready");
            let owner = firsts.iter().rposition(|first| task >= *first).expect("from the first on");
            shares[owner] += 1;
        }
        shares
    }
}

fn stream(tenant: &str, campaign: &str, class: Class) -> Stream {
    Stream { tenant: tenant.into(), campaign: campaign.into(), class, tls: TlsTag::None }
}

fn bulk(tenant: &str, campaign: &str) -> Stream {
    stream(tenant, campaign, Class::Bulk)
}

#[test]
fn tenants_take_turns_and_their_campaigns_within() {
    let mut bench = Bench::new();
    let firsts = [
        bench.add(3_000, "a.test", &bulk("one", "x"), "", 1),
        bench.add(3_000, "a.test", &bulk("one", "y"), "", 1),
        bench.add(3_000, "a.test", &bulk("two", "x"), "", 1),
    ];
    let shares = bench.shares(4_000, &firsts);
    assert_eq!(shares, [1_000, 1_000, 2_000]);
}

#[test]
fn a_share_is_counted_by_cost() {
    let mut bench = Bench::new();
    let firsts = [
        bench.add(1_000, "a.test", &bulk("large", ""), "s.test", 9),
        bench.add(1_000, "a.test", &bulk("small", ""), "s.test", 1),
    ];
    let shares = bench.shares(1_000, &firsts);
    assert!((99..=101).contains(&shares[0]), "{shares:?}");
    // Alone, nobody waits for anybody.
    let rest = bench.shares(1_000, &firsts);
    assert_eq!(rest[0] + rest[1], 1_000);
}

#[test]
fn a_debt_stays_while_its_owner_has_nothing_ready() {
    let mut bench = Bench::new();
    let small = bench.add(1_000, "a.test", &bulk("small", ""), "s.test", 1);
    let mut taken = Vec::new();
    for _ in 0..10 {
        let large = bench.add(1, "a.test", &bulk("large", ""), "s.test", 50);
        let mut count = 0;
        while bench.take() != Some(large) {
            count += 1;
        }
        taken.push(count);
    }
    assert!(taken[1..].iter().all(|count| (48..=51).contains(count)), "{taken:?}");
    assert!(bench.tasks.0.len() as u32 > small);
}

#[test]
fn domains_of_a_campaign_take_turns() {
    let mut bench = Bench::new();
    let firsts = [
        bench.add(100, "a.test", &bulk("", ""), "s.test", 1),
        bench.add(10, "b.test", &bulk("", ""), "s.test", 1),
    ];
    assert_eq!(bench.shares(20, &firsts), [10, 10]);
}

#[test]
fn transactional_mail_goes_ahead_and_bulk_mail_has_every_eighth_turn() {
    let mut bench = Bench::new();
    let firsts = [
        bench.add(1_000, "a.test", &bulk("", ""), "s.test", 1),
        bench.add(1_000, "a.test", &stream("", "", Class::Transactional), "s.test", 1),
    ];
    assert_eq!(bench.shares(800, &firsts), [100, 700]);
    assert_eq!(bench.shares(300, &firsts), [37, 263]);
    while bench.take().is_some() {}
    let firsts = [
        bench.add(9, "a.test", &bulk("", ""), "s.test", 1),
        bench.add(3, "a.test", &stream("", "", Class::Transactional), "s.test", 1),
    ];
    assert_eq!(bench.shares(3, &firsts), [0, 3], "at once, whatever went before");
}

#[test]
fn a_huge_campaign_does_not_delay_a_small_one_of_the_same_tenant() {
    let mut bench = Bench::new();
    for (huge, small, count) in [("huge", "small", 1_000_000), ("", "", 10_000)] {
        let firsts = [
            bench.add(count, "a.test", &bulk("acme", huge), "huge.test", 1),
            bench.add(10, "a.test", &bulk("acme", small), "small.test", 1),
        ];
        assert_eq!(bench.shares(20, &firsts), [10, 10]);
        while bench.take().is_some() {}
    }
    assert_eq!(bench.schedule.lines.turn_count(), 0, "debts end with the competition");
}

#[test]
fn a_claimed_task_leaves_no_turn_behind() {
    let mut bench = Bench::new();
    let first = bench.add(3, "a.test", &bulk("", ""), "s.test", 1);
    let other = bench.add(1, "b.test", &bulk("", ""), "t.test", 1);
    bench.schedule.remove_ready(&mut bench.tasks, first + 1);
    bench.schedule.remove_ready(&mut bench.tasks, other);
    assert_eq!(bench.schedule.ready_count(bench.line), 2);
    assert_eq!((bench.take(), bench.take(), bench.take()), (Some(first), Some(first + 2), None));
    bench.schedule.push_ready(&mut bench.tasks, other);
    assert_eq!((bench.take(), bench.take()), (Some(other), None));
    for slot in first..=other {
        let flow = bench.tasks.0[slot as usize].flow;
        bench.schedule.leave(flow);
    }
    assert_eq!((bench.schedule.flows.len(), bench.schedule.lines.turn_count()), (0, 0));
}

#[test]
fn a_task_that_keeps_its_place_comes_before_the_others_of_its_flow() {
    let mut bench = Bench::new();
    let first = bench.add(3, "a.test", &bulk("", ""), "s.test", 1);
    bench.schedule.remove_ready(&mut bench.tasks, first + 1);
    bench.schedule.push_ready_first(&mut bench.tasks, first + 1);
    let order = [bench.take(), bench.take(), bench.take(), bench.take()];
    assert_eq!(order, [Some(first + 1), Some(first), Some(first + 2), None]);
    bench.schedule.push_ready_first(&mut bench.tasks, first);
    assert_eq!((bench.take(), bench.take()), (Some(first), None), "the only one");
}

#[test]
fn a_line_is_announced_each_time_it_has_something_again() {
    let mut bench = Bench::new();
    let flow = bench.schedule.enter("a.test", &Stream::default(), "", None);
    for _ in 0..2 {
        bench.tasks.0.push(Fake { links: Links::default(), list: 0, flow, cost: 1 });
    }
    bench.schedule.push_ready(&mut bench.tasks, 0);
    let Some(Announcement::Flow(id)) = bench.schedule.poll_announcement() else { panic!("a flow") };
    assert_eq!(bench.schedule.poll_announcement(), None, "once");
    let line = bench.line;
    bench.schedule.assign(id, line);
    bench.schedule.push_ready(&mut bench.tasks, 1);
    assert_eq!(bench.schedule.poll_announcement(), Some(Announcement::Line(line)));
    assert_eq!(bench.schedule.poll_announcement(), None, "not while it has some");
    assert_eq!((bench.take(), bench.take(), bench.take()), (Some(0), Some(1), None));
    bench.schedule.push_ready(&mut bench.tasks, 1);
    bench.schedule.remove_ready(&mut bench.tasks, 1);
    assert_eq!(bench.schedule.poll_announcement(), None, "claimed meanwhile");
    bench.schedule.push_ready(&mut bench.tasks, 0);
    assert_eq!(bench.schedule.poll_announcement(), Some(Announcement::Line(line)));
}

#[test]
fn flows_of_a_closed_line_are_announced_anew() {
    let mut bench = Bench::new();
    bench.add(2, "ready.test", &bulk("", ""), "s.test", 1);
    let idle = bench.add(1, "idle.test", &bulk("", ""), "t.test", 1);
    bench.schedule.remove_ready(&mut bench.tasks, idle);
    bench.schedule.close_line(bench.line);
    assert_eq!(bench.take(), None);
    let domain_of = |bench: &mut Bench| match bench.schedule.poll_announcement() {
        Some(Announcement::Flow(flow)) => bench.schedule.flow(flow).map(|flow| flow.domain),
        _ => None,
    };
    assert_eq!(domain_of(&mut bench).as_deref(), Some("ready.test"));
    assert_eq!(domain_of(&mut bench), None);
    bench.schedule.push_ready(&mut bench.tasks, idle);
    assert_eq!(domain_of(&mut bench).as_deref(), Some("idle.test"));
    // The next line has the slot of the old one, and none of its flows.
    bench.line = bench.schedule.open_line();
    assert_eq!(bench.schedule.ready_count(bench.line), 0);
}

#[test]
fn a_flow_can_be_moved_to_another_line() {
    let mut bench = Bench::new();
    let flow = bench.schedule.enter("a.test", &Stream::default(), "", None);
    bench.tasks.0.push(Fake { links: Links::default(), list: 0, flow, cost: 1 });
    bench.schedule.push_ready(&mut bench.tasks, 0);
    let Some(Announcement::Flow(id)) = bench.schedule.poll_announcement() else { panic!("a flow") };
    let (old, new) = (bench.line, bench.schedule.open_line());
    bench.schedule.assign(id, old);
    bench.schedule.assign(id, new);
    assert_eq!((bench.schedule.ready_count(old), bench.schedule.ready_count(new)), (0, 1));
    assert_eq!(bench.schedule.poll_announcement(), Some(Announcement::Line(new)));
    assert_eq!(bench.take(), None);
}

#[test]
fn a_forgotten_flow_never_names_another_one() {
    let mut schedule = Schedule::default();
    let old = schedule.enter("old.test", &Stream::default(), "", None);
    let id = schedule.flows.id(old);
    schedule.leave(old);
    let new = schedule.enter("new.test", &Stream::default(), "", None);
    assert_eq!(new, old, "the slot is used again");
    assert!(schedule.flow(id).is_none());
    let line = schedule.open_line();
    schedule.assign(id, line);
    assert_eq!(schedule.flows.get(new).line, None);
}
