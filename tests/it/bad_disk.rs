//! A disk that fails: the server stops at the first failed write or sync, and holds what it cannot
//! read.

use crate::disk::{Disk, Ext4};
use crate::harness::{Behaviour, NextHop, Numbered, Server, free_address, wait_until};
use crate::steer::steer;

/// All that is left of a failing disk.
const SUPERBLOCK_BYTES: u64 = 4096;
const EXTRA: &str = "[queue]\nretry_wait_min = \"1h\"\nretry_wait_max = \"1h\"\n\
                     [journal]\nsegment_bytes = \"4MiB\"\nbytes_max = \"1GiB\"\n\
                     min_free_bytes = \"0B\"\n[shards]\ncount = 1\n";

/// Accepts mail, fails, and has it all when the disk is well again.
fn stops_and_comes_back(mut disk: Disk, remount: bool) {
    let address = free_address();
    let mut server = Server::stopped(disk.path().join("data"), address, EXTRA);
    server.start_again();
    // The pool grows behind the start: making a segment is not what is to fail.
    wait_until("the pool has grown", || server.metric("ringpost_journal_segments_free") >= 3.0);
    let mut numbered = Numbered::default();
    let (mut client, mut other) = (server.greeted(), server.greeted());
    for _ in 0..20 {
        let reply = numbered.send(&mut client, 8 << 10);
        assert!(reply.starts_with("250"), "{reply}");
    }
    disk.fail_behind(SUPERBLOCK_BYTES);
    let reply = numbered.send(&mut client, 8 << 10);
    assert_eq!(reply, "", "nothing is acknowledged any more");
    let status = server.wait_for_end();
    assert_eq!(status.code(), Some(74), "{}", server.stderr());
    assert_eq!(other.reply(), "", "nobody is told anything");
    let stderr = server.stderr();
    let said: Vec<&str> = stderr.lines().filter(|line| line.contains("; stopping, ")).collect();
    assert_eq!(said.len(), 1, "{stderr}");
    let path = disk.path().join("data/shard-00/seg.0");
    assert!(said[0].contains(path.to_str().expect("a path of text")), "{stderr}");
    disk.heal();
    if remount {
        disk.mount_again();
    }
    server.start_again();
    assert!(server.metric("ringpost_queue_messages") >= numbered.accepted.len() as f64);
    let next_hop = NextHop::start_on(address, Behaviour::default());
    steer(&server, &["retry", "--all"]);
    wait_until("the queue is empty", || server.metric("ringpost_queue_messages") == 0.0);
    numbered.audit(&next_hop.got());
}

#[test]
fn a_failed_write_stops_the_server_and_loses_nothing() {
    let Some(disk) = Disk::ext4(64, Ext4::NoJournal) else { return };
    stops_and_comes_back(disk, false);
}

#[test]
fn a_failed_sync_stops_the_server_and_loses_nothing() {
    let Some(disk) = Disk::ext4(64, Ext4::DataJournal) else { return };
    stops_and_comes_back(disk, true);
}

#[test]
fn content_that_cannot_be_read_is_held_and_goes_out_once_it_can() {
    let Some(disk) = Disk::ext4(16, Ext4::NoJournal) else { return };
    let (address, directory) = (free_address(), tempfile::tempdir().expect("a directory"));
    let data_dir = directory.path().join("data");
    let mut server = Server::stopped(data_dir.clone(), address, EXTRA);
    server.start_again();
    let mut numbered = Numbered::default();
    for _ in 0..3 {
        let reply = numbered.send(&mut server.greeted(), 8 << 10);
        assert!(reply.starts_with("250"), "{reply}");
    }
    assert!(server.stop().success());
    // The first segment alone moves to the disk that fails.
    let (segment, moved) = (data_dir.join("shard-00/seg.000000"), disk.path().join("segment"));
    std::fs::copy(&segment, &moved).expect("copied");
    std::fs::remove_file(&segment).expect("removed");
    std::os::unix::fs::symlink(&moved, &segment).expect("linked");
    server.start_again();
    disk.fail_behind(SUPERBLOCK_BYTES);
    let next_hop = NextHop::start_on(address, Behaviour::default());
    steer(&server, &["retry", "--all"]);
    let count = numbered.accepted.len() as f64;
    wait_until("all are held", || server.metric("ringpost_queue_held_total") == count);
    assert_eq!(server.metric("ringpost_queue_messages"), count);
    assert!(next_hop.got().is_empty(), "what cannot be read is not sent");
    assert!(server.stderr().contains("held, its content cannot be read back"));
    // Whatever stands elsewhere is not concerned.
    let reply = numbered.send(&mut server.greeted(), 8 << 10);
    assert!(reply.starts_with("250"), "{reply}");
    next_hop.wait_for(1);
    disk.heal();
    steer(&server, &["release", "--all"]);
    numbered.audit(&next_hop.wait_for(numbered.accepted.len()));
    // A start names the file that it cannot read.
    assert!(server.stop().success());
    disk.fail_behind(SUPERBLOCK_BYTES);
    let output = server.run(&["serve"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(74), "{text}");
    assert!(text.contains(segment.to_str().expect("a path of text")), "{text}");
}

#[test]
fn a_start_that_cannot_read_its_journal_says_so_and_succeeds_later() {
    let Some(disk) = Disk::ext4(64, Ext4::NoJournal) else { return };
    let data_dir = disk.path().join("data");
    let mut server = Server::stopped(data_dir.clone(), free_address(), EXTRA);
    server.start_again();
    let reply = Numbered::default().send(&mut server.greeted(), 8 << 10);
    assert!(reply.starts_with("250"), "{reply}");
    assert!(server.stop().success());
    disk.fail_behind(SUPERBLOCK_BYTES);
    let output = server.run(&["serve"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(74), "{text}");
    assert!(text.contains(data_dir.to_str().expect("a path of text")), "{text}");
    disk.heal();
    server.start_again();
    assert_eq!(server.metric("ringpost_queue_messages"), 1.0);
}
