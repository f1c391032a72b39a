//! The whole way of mail through the durable rooms: intake, index, schedule, outcomes, checkpoints,
//! compaction, leases and the journal of every shard, over disks that fail and next hops that do.
//!
//! The rooms are those of the server. A run is a few lives of one store; each ends in a power loss,
//! a kill, a failed write, or a clean stop. `RINGPOST_SIM_TRAFFIC_SEED` runs one seed.

mod ledger;
mod life;
mod relay;
mod world;

use std::hash::{DefaultHasher, Hash, Hasher};

use ringpost_sim::Bug;
use ringpost_sim::rng::Rng;
use ringpost_sim::runtime::executor;

use crate::{attempt_with, caught_by, each_seed, from_env};
use ledger::Counts;
use life::{End, Life};
use world::World;

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ran {
    digest: u64,
    lives: u64,
    clean_stops: u64,
    counts: Counts,
}

/// One store from its first start to its last recovery.
fn run(seed: u64, bug: Bug) -> Result<Ran, String> {
    executor::begin(seed ^ 0x7ea1_c0de);
    let rng = &mut Rng::new(seed);
    let world = World::new(rng, bug);
    let mut digest = DefaultHasher::new();
    let mut ran = Ran::default();
    let lives = rng.between(2, 5);
    for life in 0..=lives {
        let is_last = life == lives;
        if is_last {
            world.begin_drain();
        } else {
            let rarity = if rng.percent(25) { rng.between(50, 2_000) } else { 0 };
            world.shards.iter().for_each(|shard| shard.device.failure_rarity.set(rarity));
        }
        ran.lives += 1;
        let process = Life::begin(&world)?;
        let end = if is_last {
            process.drain()?;
            End::Stop
        } else {
            // Short lives die around their first segment header.
            let ms_max = if rng.percent(30) { 200 } else { 5_000 };
            process.go_on(rng.between(1, ms_max) as u64)?;
            [End::PowerLoss, End::PowerLoss, End::Kill, End::Stop][rng.below(4)]
        };
        ran.clean_stops += u64::from(process.end(end)?);
        (world.ledger.borrow().counts, executor::now_us(), rng.next_u64()).hash(&mut digest);
    }
    let process = Life::begin(&world)?;
    process.drain()?;
    process.end(End::Kill)?;
    let ledger = world.ledger.borrow();
    ledger.judge()?;
    ran.counts = ledger.counts;
    (ran.counts, executor::random_u64()).hash(&mut digest);
    ran.digest = digest.finish();
    Ok(ran)
}

fn attempt(seed: u64, bug: Bug) -> Result<Ran, String> {
    let ran = attempt_with(|| run(seed, bug));
    executor::forget();
    ran
}

fn check(seed: u64) -> Ran {
    attempt(seed, Bug::None).unwrap_or_else(|violation| {
        panic!(
            "seed {seed}: {violation}\n\
             RINGPOST_SIM_TRAFFIC_SEED={seed} cargo test --test sim no_accepted_message"
        )
    })
}

#[test]
fn no_accepted_message_is_lost_or_sent_twice_without_need() {
    if let Some(seed) = from_env("RINGPOST_SIM_TRAFFIC_SEED") {
        println!("{:?}", check(seed));
        return;
    }
    let seeds = from_env("RINGPOST_SIM_SEEDS").unwrap_or(SEEDS);
    let [lives, stops, accepted, refused, attempts, twice, failed, reports, onward] =
        each_seed(seeds, |seed| {
            let Ran { lives, clean_stops, counts, .. } = check(seed);
            let Counts { accepted, refused, attempts, twice, failed, reports, onward, .. } = counts;
            [lives, clean_stops, accepted, refused, attempts, twice, failed, reports, onward]
        });
    println!(
        "{seeds} seeds: {lives} lives, {stops} of them stopped cleanly; {accepted} messages \
         accepted, {refused} refused; {attempts} attempts, {twice} recipients served twice, \
         {failed} failed, {reports} reports, {onward} led on"
    );
    assert!(lives >= 3 * seeds && stops >= seeds);
    assert!(accepted >= 20 * seeds && attempts > accepted);
    assert!(refused > seeds / 4, "there is not always room");
    assert!(failed > seeds && reports > seeds && onward > seeds);
    assert!(twice > seeds / 10, "replies are lost");
}

#[test]
fn the_same_seed_is_the_same_traffic() {
    for seed in 0..3 {
        assert_eq!(check(seed), check(seed));
    }
}

fn caught(bug: Bug) {
    caught_by(attempt, bug, BUG_SEEDS);
}

#[test]
fn an_answer_before_the_frame_is_durable_is_caught() {
    caught(Bug::ReportsEarly);
}

#[test]
fn a_failed_recipient_without_its_report_in_the_frame_is_caught() {
    caught(Bug::SplitsFailed);
}

#[test]
fn what_is_sent_on_before_the_outcome_is_recorded_is_caught() {
    caught(Bug::SendsOnApart);
}

#[test]
fn a_checkpoint_from_a_stale_index_is_caught() {
    caught(Bug::StaleItems);
}

#[test]
fn a_due_time_that_is_not_restored_is_caught() {
    caught(Bug::ForgetsDue);
}

#[test]
fn a_change_of_an_operator_that_is_not_restored_is_caught() {
    caught(Bug::ForgetsChange);
}

#[test]
fn a_task_put_back_twice_is_caught() {
    caught(Bug::PutsBackTwice);
}

#[test]
fn a_settled_task_that_is_tried_again_is_caught() {
    caught(Bug::SendsAgain);
}

#[test]
fn a_lease_used_again_across_a_restart_is_caught() {
    caught(Bug::ForgetsWindow);
}

#[test]
fn a_lease_returned_before_the_reply_is_caught() {
    caught(Bug::ReturnsEarly);
}

#[test]
fn a_task_tried_before_its_time_is_caught() {
    caught(Bug::HurriesClock);
}

const SEEDS: u64 = 500;
/// Seeds within which every planted bug must show.
const BUG_SEEDS: u64 = 100;
