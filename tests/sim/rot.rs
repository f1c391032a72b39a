//! Damage to acknowledged data: reported and kept, and it hides nothing that came later.

use std::collections::BTreeSet;

use ringpost_sim::fsck::{self, Problem};
use ringpost_sim::journal::Recovery;
use ringpost_sim::journal::format::{
    BLOCK_BYTES, FRAME_HEADER_BYTES, FrameHeader, Generation, Run, SEGMENT_HEADER_BYTES,
    SegmentHeader,
};
use ringpost_sim::journal::recovery::{Ground, Rot, recover};

use crate::SEGMENT_BYTES_MIN;
use crate::process::{Bug, End, Process, STORE, Shape};
use crate::truth::{Frame, Replay, Truth};
use ringpost_sim::disk::Disk;
use ringpost_sim::rng::Rng;

/// Recovers; the seqs of the frames that count come along.
fn recover_frames(
    disk: &mut Disk,
    truth: &Truth,
) -> (Ground, Recovery, BTreeSet<u64>, Vec<(u64, crate::truth::Found)>) {
    let mut replay = Replay::new(truth);
    let (ground, recovery) = recover(&STORE, disk, &mut replay).expect("the disk can be read");
    assert_eq!(replay.violation, None);
    (ground, recovery, replay.seqs, replay.found.into_iter().collect())
}

/// Bits flip, or the frame never reached its place: something older is there, or another frame.
pub fn damage(disk: &mut Disk, frame: Frame, rng: &mut Rng) {
    let mut bytes = vec![0; FRAME_HEADER_BYTES];
    disk.read_at(frame.slot, frame.offset, &mut bytes);
    let header = FrameHeader::read(&STORE, frame.epoch, &bytes).expect("a whole frame");
    let frame_bytes = header.frame_bytes as usize;
    let kind = rng.below(4);
    loop {
        let mut whole = vec![0; frame_bytes];
        disk.read_at(frame.slot, frame.offset, &mut whole);
        if FrameHeader::read(&STORE, frame.epoch, &whole)
            .is_none_or(|header| !header.holds(&whole[FRAME_HEADER_BYTES..]))
        {
            return;
        }
        match kind {
            0 => disk.overwrite(frame.slot, frame.offset, &vec![0; frame_bytes]),
            1 => {
                // The frame of another place, the one with the segment's header at the least.
                disk.read_at(frame.slot, 0, &mut whole);
                disk.overwrite(frame.slot, frame.offset, &whole);
            }
            // Twice the same flip is none.
            _ => disk.rot(frame.slot, frame.offset + rng.below(frame_bytes), 1 << rng.below(8)),
        }
    }
}

/// One frame of a quiet store goes bad.
fn run(seed: u64) {
    let rng = &mut Rng::new(seed);
    let shape =
        Shape { segment_bytes: SEGMENT_BYTES_MIN, slots_max: rng.between(8, 12), bug: Bug::None };
    let disk = &mut Disk::default();
    disk.add_slot(shape.segment_bytes);
    disk.add_slot(shape.segment_bytes);
    let truth = &mut Truth::default();
    let (ground, ..) = recover_frames(disk, truth);
    let mut process = Process::new(shape, ground, Vec::new(), &[], disk, truth, rng);
    let steps = process.rng.between(100, 250);
    process.settle(steps).expect("a sound disk");
    process.end(End::PowerLoss);

    let (_, recovery, before, _) = recover_frames(disk, truth);
    assert_eq!(recovery.rot, []);
    // The last one is covered by nothing.
    let Some(last) = before.last().copied() else { return };
    let choice: Vec<Frame> = truth
        .frames
        .values()
        .filter(|frame| frame.seq < last && before.contains(&frame.seq))
        .copied()
        .collect();
    if choice.is_empty() {
        return;
    }
    let bad = choice[rng.below(choice.len())];
    damage(disk, bad, rng);
    let rot =
        Rot { slot: bad.slot, offset: bad.offset as u64, first_seq: bad.seq, last_seq: bad.seq };

    let (ground, recovery, after, found) = recover_frames(disk, truth);
    assert_eq!(recovery.rot, std::slice::from_ref(&rot), "seed {seed}");
    assert_eq!(recovery.dropped_frames, 0, "seed {seed}");
    let lost: Vec<u64> = before.difference(&after).copied().collect();
    assert_eq!(lost, [bad.seq], "seed {seed}: everything else still counts");

    truth.accept(&found.iter().map(|(id, found)| (*id, found.clone())).collect());
    let mut process =
        Process::new(shape, ground, found, std::slice::from_ref(&rot), disk, truth, rng);
    // It fails where the damaged slot is written to.
    process.run(250).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    process.end(End::PowerLoss);
    let (ground, ..) = recover_frames(disk, truth);
    assert!(ground.quarantined.contains(&(rot.slot as u16)), "seed {seed}: its slot is kept");
}

#[test]
fn a_damaged_frame_is_reported_and_its_slot_is_kept() {
    for seed in 0..100 {
        run(seed);
    }
}

#[test]
fn half_a_header_is_damage_only_where_frames_stand() {
    let rng = &mut Rng::new(1);
    let shape = Shape { segment_bytes: SEGMENT_BYTES_MIN, slots_max: 8, bug: Bug::None };
    let disk = &mut Disk::default();
    (0..2).for_each(|_| disk.add_slot(shape.segment_bytes));
    let truth = &mut Truth::default();
    let (ground, ..) = recover_frames(disk, truth);
    let mut process = Process::new(shape, ground, Vec::new(), &[], disk, truth, rng);
    process.settle(100).expect("a sound disk");
    process.end(End::PowerLoss);
    let frame = truth.frames.values().next().copied().expect("there are frames");
    // Of envelopes fsck knows more than the writer of these.
    let problems = |disk: &mut Disk| -> Vec<Problem> {
        let report = fsck::check(&STORE.0, 0, disk).expect("the disk can be read");
        let is_of_header = |it: &Problem| matches!(it, Problem::HeaderCopy { .. });
        report.problems.into_iter().filter(is_of_header).collect()
    };
    assert_eq!(problems(disk), []);
    let (slot, block) = (frame.slot, BLOCK_BYTES);
    disk.overwrite(slot, block, &vec![0; block]);
    assert_eq!(problems(disk), [Problem::HeaderCopy { slot }]);

    // The same header, torn, in a slot of its own.
    let disk = &mut Disk::default();
    disk.add_slot(shape.segment_bytes);
    let header = SegmentHeader {
        generation: Generation::First,
        shard: 0,
        epoch: 1,
        first_seq: 1,
        activated_ms: 0,
        run: Run { first_epoch: 1, first_seq: 1, cut_seq: 0 },
        oldest_live_epoch: 1,
        next_message_id: 1,
        checkpoints: [None; 2],
        before: None,
    };
    let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
    header.write(&STORE, &mut bytes);
    disk.overwrite(0, 0, &bytes[..block]);
    assert_eq!(problems(disk), []);
}

/// Both checkpoints of a quiet store go bad. Returns whether the start was degraded.
fn lose_checkpoints(seed: u64) -> bool {
    let rng = &mut Rng::new(seed);
    let shape =
        Shape { segment_bytes: SEGMENT_BYTES_MIN, slots_max: rng.between(8, 12), bug: Bug::None };
    let disk = &mut Disk::default();
    (0..6).for_each(|_| disk.add_slot(shape.segment_bytes));
    let truth = &mut Truth::default();
    let (ground, ..) = recover_frames(disk, truth);
    let mut process = Process::new(shape, ground, Vec::new(), &[], disk, truth, rng);
    let steps = process.rng.between(300, 900);
    process.settle(steps).expect("a sound disk");
    process.end(End::PowerLoss);

    let (ground, ..) = recover_frames(disk, truth);
    for name in ground.checkpoints.iter().flatten() {
        let frame = truth.frames[&(name.begin_epoch as u32, name.begin_block as u16)];
        // With the frame of a message the message would be lost.
        if frame.id_max > 0 {
            return false;
        }
        damage(disk, frame, rng);
    }
    let mut replay = Replay::new(truth);
    let (ground, recovery) = recover(&STORE, disk, &mut replay).expect("the disk can be read");
    replay.judge(disk, &ground).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    assert!(recovery.is_degraded || replay.doubtful.is_empty(), "seed {seed}");
    assert!(!recovery.is_degraded || ground.checkpoints_complete == 0, "seed {seed}");
    recovery.is_degraded
}

#[test]
fn with_both_checkpoints_lost_nothing_live_is() {
    let degraded = (0..150).filter(|seed| lose_checkpoints(*seed)).count();
    assert!(degraded >= 5, "only {degraded} starts were degraded");
}
