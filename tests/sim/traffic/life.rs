//! One process: its shards from their recovery to its end.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use ringpost_sim::Bug;
use ringpost_sim::config::NextHop;
use ringpost_sim::delivery::lease::store::RecordStore;
use ringpost_sim::delivery::lease::{LeaseMemo, Leases};
use ringpost_sim::event::LogSink;
use ringpost_sim::fsck;
use ringpost_sim::journal::core::Start;
use ringpost_sim::journal::recovery::{Ground, RecoverError, recover};
use ringpost_sim::journal::{Journal, Replay, Replayed, kind};
use ringpost_sim::mail::Class;
use ringpost_sim::metrics::Metrics;
use ringpost_sim::queue::{
    Mode, Obstacles, Order, Queue, Recovered, Refusal, Reports, ReversePathPattern, Selection,
    audit,
};
use ringpost_sim::runtime::{clock, executor, task, timer};

use super::ledger::SENDERS;
use super::relay::Relay;
use super::world::World;
use crate::process::STORE;
use crate::truth::ensure;

type Checked = Result<(), String>;

/// A process under way.
pub struct Life {
    world: Rc<World>,
    shards: Vec<Shard>,
    log: LogSink,
    begun_ms: u64,
}

#[derive(Clone)]
struct Shard {
    queue: Queue,
    journal: Journal,
    relay: Rc<Relay>,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    PowerLoss,
    /// It is killed; the disk goes on with what it has.
    Kill,
    /// It finishes what it has begun, and stops.
    Stop,
}

impl Life {
    /// Recovers every shard and starts the process.
    pub fn begin(world: &Rc<World>) -> Result<Life, String> {
        world.is_stopping.set(false);
        world.is_hurried.set(world.is_draining.get());
        let grounds = (0..world.shards.len()).map(|shard| start_shard(world, shard));
        let grounds: Vec<(Ground, Recovered)> = grounds.collect::<Result<_, _>>()?;
        let log = LogSink::default();
        let records = RecordStore::start(Path::new(NOWHERE)).expect("nothing to read");
        let all: Rc<RefCell<Vec<Leases>>> = Rc::default();
        let shards = grounds.into_iter().enumerate().map(|(number, (ground, recovered))| {
            let shard = &world.shards[number];
            let slots_max = shard.allotment.slots_max.get();
            let slots_max = slots_max.max(shard.device.disk.borrow().slot_count());
            let start = Start { store: STORE, shard: number as u16, ground, slots_max };
            let (device, allotment) = (shard.device.clone(), shard.allotment.clone());
            let journal = Journal::start(device, allotment, start, shard.tap.clone());
            let (config, metrics) = (world.config.clone(), Rc::new(Metrics::default()));
            let queue = Queue::start(
                number as u16,
                config.clone(),
                journal.clone(),
                recovered,
                metrics.clone(),
                log.clone(),
            );
            journal.begin();
            let send = {
                let all = all.clone();
                Rc::new(move |to: usize, memo: LeaseMemo| {
                    // A full inbox refuses.
                    let is_taken = executor::percent(97);
                    if is_taken {
                        let all = all.clone();
                        task::spawn(async move {
                            let us_max = if executor::percent(5) { 100_000 } else { 3_000 };
                            let due_us = executor::now_us() + executor::below(us_max) as u64;
                            timer::sleep_until_us(due_us).await;
                            let leases = all.borrow()[to].clone();
                            leases.on_memo(memo);
                        });
                    }
                    is_taken
                })
            };
            if world.bug == Bug::ForgetsWindow {
                executor::set_monotonic_lag_ms(QUIET_MS);
            }
            let count = world.shards.len();
            let leases = Leases::start(number, count, config, metrics, records.clone(), send);
            executor::set_monotonic_lag_ms(0);
            all.borrow_mut().push(leases.clone());
            shard.put_off.borrow_mut().clear();
            let relay = Relay::start(world.clone(), number, queue.clone(), leases);
            Shard { queue, journal, relay }
        });
        let shards: Vec<Shard> = shards.collect();
        let life = Life { world: world.clone(), shards, log, begun_ms: clock::unix_ms() };
        executor::run_ready();
        life.judge()?;
        if !world.is_draining.get() {
            life.begin_traffic();
        }
        Ok(life)
    }

    fn begin_traffic(&self) {
        for shard in &self.shards {
            task::spawn(send_mail(self.world.clone(), shard.queue.clone()));
            if executor::percent(35) {
                task::spawn(operate(self.world.clone(), shard.clone()));
            }
        }
        let world = self.world.clone();
        task::spawn(async move {
            loop {
                timer::sleep(Duration::from_millis(executor::below(1_500) as u64)).await;
                world.change_mood();
                let shard = &world.shards[executor::below(world.shards.len())];
                shard.allotment.is_full.set(executor::percent(20));
            }
        });
    }

    /// Lets it go on for so long, or until it stops by itself: then this returns false.
    pub fn go_on(&self, ms: u64) -> Result<bool, String> {
        let end_us = executor::now_us() + ms * 1000;
        loop {
            executor::run_ready();
            self.world.check(self.world.ledger.borrow_mut().on_lines(&self.log.take()));
            self.world.verdict()?;
            if executor::is_stopped() {
                return Ok(false);
            }
            if executor::below(JUDGE_RARITY) == 0 {
                self.judge()?;
            }
            let next_us = executor::next_timer_us().into_iter().chain(self.world.next_event_us());
            let next_us = next_us.min().unwrap_or(end_us).min(end_us);
            executor::advance(next_us);
            self.world.see();
            if next_us == end_us {
                return Ok(true);
            }
        }
    }

    /// Whether the index of every shard is what its records say.
    fn judge(&self) -> Checked {
        for (number, shard) in self.shards.iter().enumerate() {
            let of_world = &self.world.shards[number];
            let put_off = of_world.put_off.borrow();
            let is_put_off = |id: u64, number: u16| put_off.contains(&(id, number));
            let leave = audit::Leave { begun_ms: self.begun_ms, put_off: &is_put_off };
            audit::judge(&shard.queue, &of_world.tap, &shard.relay.lines(), &leave)
                .map_err(|violation| format!("shard {number}: {violation}"))?;
        }
        Ok(())
    }

    /// Tries everything at once until nothing is queued.
    pub fn drain(&self) -> Checked {
        for round in 0..DRAIN_ROUNDS {
            if self.shards.iter().all(|shard| shard.queue.stats().messages == 0) {
                return self.judge();
            }
            for (number, shard) in self.shards.iter().enumerate() {
                if round == DRAIN_ROUNDS / 2 {
                    // Every start takes a segment: lives that ended before they freed anything
                    // used the reserve up. The operator gives more room.
                    let of_world = &self.world.shards[number];
                    let slots = of_world.device.disk.borrow().slot_count();
                    of_world.allotment.slots_max.set(slots + 4);
                }
                shard.relay.forget_failures();
                let shard = shard.clone();
                task::spawn(async move {
                    for order in [Order::Release, Order::Retry(Obstacles::Respected)] {
                        steer(&shard, &Selection::default(), &order).await;
                    }
                });
            }
            if !self.go_on(2_000)? {
                return Err("the process stopped while nothing failed".to_owned());
            }
        }
        let left: Vec<_> = self.shards.iter().map(|shard| shard.queue.stats()).collect();
        Err(format!("this is never served: {left:?}"))
    }

    /// Ends the process. Returns whether it ended in its own time.
    pub fn end(self, end: End) -> Result<bool, String> {
        let has_stopped = end == End::Stop && self.stop()?;
        let world = self.world.clone();
        drop(self);
        executor::kill();
        for shard in &world.shards {
            shard.device.abandon();
            if end == End::PowerLoss {
                shard.device.lose_power();
            }
        }
        world.disconnect_all();
        // What arrives while nobody is here is seen in its time.
        let gone_until = executor::now_us() + 1_000 + executor::below(500_000) as u64;
        while let Some(next_us) = world.next_event_us().filter(|next_us| *next_us <= gone_until) {
            executor::advance(next_us);
            world.see();
        }
        executor::advance(gone_until);
        world.verdict()?;
        Ok(has_stopped)
    }

    /// A clean stop; false when the disk failed first.
    fn stop(&self) -> Result<bool, String> {
        self.world.is_stopping.set(true);
        let is_gone = |shard: &Shard| shard.relay.connection_count() == 0;
        if !self.go_on_until("connections", || self.shards.iter().all(is_gone))? {
            return Ok(false);
        }
        let left = Rc::new(std::cell::Cell::new(self.shards.len()));
        for shard in &self.shards {
            let (shard, left) = (shard.clone(), left.clone());
            task::spawn(async move {
                shard.queue.drain();
                shard.queue.flushed().await;
                shard.queue.checkpoint_at_stop().await;
                shard.journal.close().await;
                left.set(left.get() - 1);
            });
        }
        self.go_on_until("queues and journals", || left.get() == 0)
    }

    /// Lets it go on until it `is_done`; false when it stopped by itself before.
    fn go_on_until(&self, what: &str, is_done: impl Fn() -> bool) -> Result<bool, String> {
        for _ in 0..STOP_ROUNDS {
            if is_done() {
                return Ok(true);
            }
            if !self.go_on(50)? {
                return Ok(false);
            }
        }
        Err(format!("the {what} of the process do not come to their end"))
    }
}

/// Recovers a shard, as often as it is disturbed, until what was found is durable.
fn start_shard(world: &World, number: usize) -> Result<(Ground, Recovered), String> {
    let shard = &world.shards[number];
    loop {
        let mut disk = shard.device.disk.borrow_mut();
        if executor::percent(3) {
            disk.reads_until_error = Some(executor::below(8));
        }
        let mut recovered = Recovered::default();
        let mut replay = Forgetful { bug: world.bug, recovered: &mut recovered };
        let (ground, recovery) = match recover(&STORE, &mut *disk, &mut replay) {
            Ok(recovered) => recovered,
            Err(RecoverError::Io(error)) if error.to_string().contains("told to fail") => continue,
            Err(error) => return Err(format!("{error:?}")),
        };
        disk.reads_until_error = None;
        let is_sound = recovery.rot.is_empty() && recovery.bad_checkpoints == 0;
        ensure(is_sound, || format!("damage where there is none: {recovery:?}"))?;
        audit::fold(&shard.tap, ground.last_seq)
            .and_then(|folded| audit::agree(&recovered, &folded))
            .map_err(|violation| format!("shard {number}: {violation}"))?;
        let queued: BTreeSet<u64> = audit::ids(&recovered).into_iter().collect();
        let mut ledger = world.ledger.borrow_mut();
        ledger.on_recovered(number, &shard.tap, ground.last_seq, &queued)?;
        if executor::percent(FSCK_PERCENT) {
            let report = fsck::check(&STORE.0, number as u16, &mut *disk);
            let report = report.map_err(|error| error.to_string())?;
            let ids: BTreeSet<u64> = report.entries.iter().map(|it| it.id).collect();
            let is_whole = report.entries.iter().all(|message| message.is_whole);
            ensure(report.problems.is_empty() && is_whole && ids == queued, || {
                format!("fsck does not agree: {report:?}, {queued:?} are queued")
            })?;
        }
        for slot in 0..disk.slot_count() {
            if executor::percent(3) {
                break;
            }
            disk.sync_all(slot);
        }
        if disk.is_synced() {
            shard.tap.cut(ground.last_seq);
            return Ok((ground, recovered));
        }
        executor::with_rng(|rng| disk.lose_power(rng));
    }
}

/// What stands between recovery and the index, and forgets where that is planted.
struct Forgetful<'a> {
    bug: Bug,
    recovered: &'a mut Recovered,
}

impl Replay for Forgetful<'_> {
    fn visit(&mut self, record: Replayed<'_>) {
        let payload = match self.bug {
            Bug::ForgetsDue if record.kind == kind::STATE => {
                audit::forget(record.payload, |state| state.due_ms = 0)
            }
            Bug::ForgetsChange if record.kind == kind::STATE => {
                audit::forget(record.payload, |state| state.change = Default::default())
            }
            _ => return self.recovered.visit(record),
        };
        self.recovered.visit(Replayed { payload: &payload, ..record });
    }

    fn restart(&mut self) {
        self.recovered.restart();
    }
}

/// A client that sends one message after the other.
async fn send_mail(world: Rc<World>, queue: Queue) {
    let pause_ms = 50 + executor::below(600);
    while !world.is_stopping.get() {
        timer::sleep(Duration::from_millis(executor::below(pause_ms) as u64)).await;
        let domains = 2 * world.sites.len();
        let now_ms = clock::unix_ms();
        let (mark, envelope) =
            executor::with_rng(|rng| world.ledger.borrow_mut().new_mail(rng, now_ms, domains));
        let content = world.ledger.borrow().content(mark);
        let Ok(mut draft) = queue.begin(content.len() as u64) else {
            world.ledger.borrow_mut().counts.refused += 1;
            timer::sleep(Duration::from_millis(300)).await;
            continue;
        };
        let mut rest = content;
        let mut is_refused = false;
        while !rest.is_empty() && !is_refused {
            let piece = rest.len().min(64 * 1024);
            let taken = draft.append(&rest[..piece]);
            rest = &rest[taken..];
            is_refused = draft.room().await.is_err();
        }
        // Some go away before the end of data.
        if is_refused || executor::percent(3) {
            continue;
        }
        match draft.commit(envelope).await {
            Ok(id) => world.ledger.borrow_mut().on_accepted(mark, id),
            Err(Refusal::TooLarge) => world.check(Err("an envelope too large".to_owned())),
            Err(_) => world.ledger.borrow_mut().counts.refused += 1,
        }
    }
}

/// An operator with a wish now and then.
async fn operate(world: Rc<World>, shard: Shard) {
    loop {
        timer::sleep(Duration::from_millis(500 + executor::below(3_000) as u64)).await;
        if world.is_stopping.get() {
            return;
        }
        let domain = format!("d{}.test", executor::below(2 * world.sites.len()));
        let selection = Selection {
            flows: ringpost_sim::queue::Conditions { domain: Some(domain), ..Default::default() }
                .parse()
                .expect("a domain"),
            // Then envelopes are read back.
            reverse_path: executor::percent(30)
                .then(|| ReversePathPattern::parse(&format!("*1@{SENDERS}")).expect("a pattern")),
            ..Selection::default()
        };
        let site = &world.sites[executor::below(world.sites.len())];
        let next_hop: Option<NextHop> = executor::percent(70).then(|| site.next_hop.clone());
        let class = if executor::percent(50) { Class::Transactional } else { Class::Bulk };
        let order = match executor::below(12) {
            0 | 1 => Order::Hold,
            2..5 => Order::Release,
            5..8 => Order::Reroute(next_hop),
            8..11 => Order::Class(class),
            _ => Order::Bounce(Reports::Wanted),
        };
        // Whoever was Held, or goes elsewhere, goes at once.
        let hurries = matches!(order, Order::Release | Order::Reroute(_));
        if hurries {
            world.is_hurried.set(true);
            world.has_released.set(true);
        }
        if world.bug == Bug::HurriesClock {
            steer(&shard, &Selection::default(), &Order::Retry(Obstacles::Respected)).await;
        }
        steer(&shard, &selection, &order).await;
    }
}

async fn steer(shard: &Shard, selection: &Selection, order: &Order) {
    let sites = &*shard.relay;
    shard.queue.steer(selection, order, Mode::CarryOut, sites, |_| true).await;
}

/// No file of leases is there: their own simulation has one.
const NOWHERE: &str = "/nonexistent";
/// What leases of a process wait for after its start.
const QUIET_MS: u64 = 2_000;
/// Steps from one look into the indexes to the next, about.
const JUDGE_RARITY: usize = 3_000;
const FSCK_PERCENT: usize = 20;
/// Each is two seconds.
const DRAIN_ROUNDS: usize = 60;
/// Each is a twentieth of a second.
const STOP_ROUNDS: usize = 2_000;
