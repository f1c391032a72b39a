//! The journal under a disk that fails: the pure core and the recovery, driven from a seed.
//!
//! A run is a few lives of one store. Each life ends in a power loss, a failed write or sync, or a
//! plain stop; after each recovery everything acknowledged must be there and nothing else may be.
//! `RINGPOST_SIM_SEED` runs one seed, `RINGPOST_SIM_SEEDS` another number of them.

mod leases;
mod mailboxes;
mod peers;
mod process;
mod rot;
mod traffic;
mod truth;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use ringpost_sim::fsck::{self, Counted};
use ringpost_sim::journal::recovery::{Ground, RecoverError, recover};

use process::{Bug, End, Process, STORE, Shape};
use ringpost_sim::disk::Disk;
use ringpost_sim::rng::Rng;
use truth::{Found, Replay, Truth, ensure};

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ran {
    digest: u64,
    recoveries: u64,
    frames: u64,
    /// Segments that were taken into use beyond the first time each slot was.
    reused: u64,
    dropped_frames: u64,
    /// Checkpoints that were completed, and records that compaction moved.
    checkpoints: u64,
    moved: u64,
}

/// One store from its first start to its last recovery.
fn run(seed: u64, bug: Bug) -> Result<Ran, String> {
    let rng = &mut Rng::new(seed);
    let shape = Shape {
        segment_bytes: SEGMENT_BYTES_MIN + rng.below(3) * 256 * 1024,
        slots_max: rng.between(7, 12),
        bug,
    };
    let disk = &mut Disk::default();
    for _ in 0..rng.between(1, 7) {
        disk.add_slot(shape.segment_bytes);
    }
    let truth = &mut Truth::default();
    let mut digest = DefaultHasher::new();
    let mut ran = Ran::default();
    let lives = rng.between(3, 7);
    for life in 0..=lives {
        let (ground, found, dropped) = start(disk, truth, rng, &mut ran)?;
        ran.dropped_frames += dropped;
        (ground.last_seq, ground.next_seq, ground.next_message_id, found.len()).hash(&mut digest);
        let mut process =
            Process::new(shape, ground, found.into_iter().collect(), &[], disk, truth, rng);
        // Short lives die around their first segment header.
        let steps = if process.rng.percent(35) { 20 } else { 700 };
        let steps = process.rng.between(1, steps);
        if life == lives {
            process.drain(steps)?;
        } else if process.run(steps)? && process.rng.percent(50) {
            process.hurry()?;
        }
        ran.checkpoints += process.core.counters.checkpoints;
        ran.moved += process.moved;
        let end = if process.rng.percent(70) { End::PowerLoss } else { End::Stop };
        process.end(end);
        (rng.next_u64(), truth.acknowledged_seq, truth.frames.len()).hash(&mut digest);
    }
    let (_, found, _) = start(disk, truth, rng, &mut ran)?;
    ensure(found.is_empty(), || format!("{} messages after the drain", found.len()))?;
    ran.frames = truth.frames.len() as u64;
    ran.reused = truth.durable_epoch.saturating_sub(disk.slot_count() as u64);
    ran.digest = digest.finish();
    Ok(ran)
}

/// Recovers, as often as it is disturbed, until what was found is durable.
fn start(
    disk: &mut Disk,
    truth: &mut Truth,
    rng: &mut Rng,
    ran: &mut Ran,
) -> Result<(Ground, BTreeMap<u64, Found>, u64), String> {
    loop {
        ran.recoveries += 1;
        if rng.percent(3) {
            disk.reads_until_error = Some(rng.below(8));
        }
        let mut replay = Replay::new(truth);
        let recovered = recover(&STORE, disk, &mut replay);
        let (ground, recovery) = match recovered {
            Ok(recovered) => recovered,
            Err(RecoverError::Io(error)) if error.to_string().contains("told to fail") => continue,
            Err(error) => return Err(format!("{error:?}")),
        };
        disk.reads_until_error = None;
        ensure(recovery.rot.is_empty(), || format!("rot where there is none: {recovery:?}"))?;
        ensure(recovery.bad_checkpoints == 0, || format!("a bad checkpoint: {recovery:?}"))?;
        replay.judge(disk, &ground)?;
        if ran.recoveries.is_multiple_of(FSCK_EVERY) {
            agree(&replay.shown, disk)?;
        }
        let found = std::mem::take(&mut replay.found);
        truth.judge_ground(&ground, disk)?;
        for slot in 0..disk.slot_count() {
            if rng.percent(3) {
                break;
            }
            disk.sync_all(slot);
        }
        if disk.is_synced() {
            truth.accept(&found);
            return Ok((ground, found, recovery.dropped_frames));
        }
        disk.lose_power(rng);
    }
}

/// Whether the independent reader finds the same records in the same order.
fn agree(shown: &[Counted], disk: &mut Disk) -> Result<(), String> {
    let counted = fsck::counted(&STORE.0, 0, disk).map_err(|error| error.to_string())?;
    let differs = shown.iter().zip(&counted).find(|(ours, theirs)| ours != theirs);
    ensure(differs.is_none() && shown.len() == counted.len(), || {
        let (ours, theirs) = (shown.len(), counted.len());
        format!("fsck finds {theirs} records, recovery {ours}; the first to differ: {differs:?}")
    })
}

/// Runs one seed; what it says of a failure repeats it.
fn attempt(seed: u64, bug: Bug) -> Result<Ran, String> {
    attempt_with(|| run(seed, bug))
}

/// A panic is a violation as well.
fn attempt_with<R>(run: impl FnOnce() -> Result<R, String>) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned()));
        Err(text.unwrap_or_else(|| "a panic".to_owned()))
    })
}

/// Runs seeds on every core and sums up what they came to.
fn each_seed<const N: usize>(seeds: u64, run: impl Fn(u64) -> [u64; N] + Sync) -> [u64; N] {
    let next = AtomicU64::new(0);
    let totals = [const { AtomicU64::new(0) }; N];
    std::thread::scope(|scope| {
        let work = || {
            while let seed = next.fetch_add(1, Ordering::Relaxed)
                && seed < seeds
            {
                for (total, part) in totals.iter().zip(run(seed)) {
                    total.fetch_add(part, Ordering::Relaxed);
                }
            }
        };
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    totals.map(AtomicU64::into_inner)
}

fn check(seed: u64) -> Ran {
    attempt(seed, Bug::None).unwrap_or_else(|violation| {
        panic!(
            "seed {seed}: {violation}\n\
             RINGPOST_SIM_SEED={seed} cargo test --test sim what_was_acknowledged"
        )
    })
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn what_was_acknowledged_survives_whatever_the_disk_does() {
    if let Some(seed) = from_env("RINGPOST_SIM_SEED") {
        println!("{:?}", check(seed));
        return;
    }
    let seeds = from_env("RINGPOST_SIM_SEEDS").unwrap_or(SEEDS);
    let [recoveries, frames, reused, dropped, checkpoints, moved] = each_seed(seeds, |seed| {
        let Ran { recoveries, frames, reused, dropped_frames, checkpoints, moved, .. } =
            check(seed);
        [recoveries, frames, reused, dropped_frames, checkpoints, moved]
    });
    println!(
        "{seeds} seeds: {recoveries} recoveries, {frames} frames, {reused} segments reused, \
         {dropped} frames dropped, {checkpoints} checkpoints, {moved} records moved"
    );
    assert!(recoveries >= 4 * seeds);
    assert!(reused >= seeds, "segments are reused");
    assert!(dropped >= seeds / 10, "tails are torn");
    assert!(checkpoints >= 2 * seeds, "checkpoints are made");
    assert!(moved >= seeds, "segments are compacted");
}

#[test]
fn frames_behind_two_torn_tails_in_a_row_count() {
    for seed in [207, 401, 493, 497] {
        check(seed);
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..5 {
        assert_eq!(check(seed), check(seed));
    }
}

/// Prints the first of so many seeds that sees the bug, and how; fails where none does.
fn caught_by<B: Copy + Debug, T>(
    attempt: impl Fn(u64, B) -> Result<T, String>,
    bug: B,
    seeds: u64,
) {
    for seed in 0..seeds {
        if let Err(violation) = attempt(seed, bug) {
            println!("{bug:?}: seed {seed}: {violation}");
            return;
        }
    }
    panic!("{bug:?} passes {seeds} seeds");
}

fn caught(bug: Bug) {
    caught_by(attempt, bug, BUG_SEEDS);
}

#[test]
fn a_frame_acknowledged_before_an_earlier_one_is_caught() {
    caught(Bug::ReportsTogether);
}

#[test]
fn a_frame_in_a_segment_without_a_durable_header_is_caught() {
    caught(Bug::HeaderEarly);
}

#[test]
fn space_reused_before_its_retirement_is_durable_is_caught() {
    caught(Bug::UnpinsEarly);
}

#[test]
fn a_checkpoint_begun_before_its_commits_are_known_is_caught() {
    caught(Bug::ListsEarly);
}

#[test]
fn a_checkpoint_that_lists_half_is_caught() {
    caught(Bug::ListsHalf);
}

#[test]
fn letting_the_old_place_go_before_the_copy_is_durable_is_caught() {
    caught(Bug::MovesEarly);
}

#[test]
fn a_frame_written_over_another_is_caught() {
    caught(Bug::WritesTwice);
}

#[test]
fn going_on_after_a_failed_sync_is_caught() {
    caught(Bug::IgnoresFailedSync);
}

#[test]
fn an_acknowledgement_without_a_sync_is_caught() {
    caught(Bug::SkipsSync);
}

/// A header and two frames.
const SEGMENT_BYTES_MIN: usize =
    ringpost_sim::journal::format::SEGMENT_HEADER_BYTES + 2 * ringpost_sim::limits::FRAME_BYTES_MAX;
const SEEDS: u64 = 500;
/// Seeds within which every planted bug must show.
const BUG_SEEDS: u64 = 200;
/// Recoveries from one that fsck looks at to the next.
const FSCK_EVERY: u64 = 4;
const WORKERS: usize = 2;
