//! A full disk: 452 4.3.1, deliveries go on, service resumes by itself, nothing is lost.

use crate::disk::{Disk, Ext4, bytes_of};
use crate::harness::{Behaviour, Client, NextHop, Numbered, Server, free_address, wait_until};

const MIB: u64 = 1 << 20;
/// Of a message: some two hundred fill the disks here, and each waits once room gets short.
const MESSAGE_BYTES: usize = 240 << 10;

/// Two shards whose journals grow in steps of 4 MiB until the disk has no more.
fn extra(min_free: &str) -> String {
    format!(
        "[queue]\nretry_wait_min = \"200ms\"\nretry_wait_max = \"400ms\"\n\
         content_cache_bytes = \"1MiB\"\n\
         [journal]\nsegment_bytes = \"4MiB\"\nbytes_max = \"1GiB\"\n\
         min_free_bytes = \"{min_free}\"\n[shards]\ncount = 2\n"
    )
}

/// Clients enough to meet both shards.
fn clients(server: &Server) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..8).map(|_| server.client()).collect();
    for client in &mut clients {
        client.expect("EHLO client.test", "250");
    }
    clients
}

/// Sends over every client until each of them is refused.
fn fill(numbered: &mut Numbered, clients: &mut [Client]) {
    for client in clients {
        loop {
            let reply = numbered.send(client, MESSAGE_BYTES);
            if !reply.starts_with("250") {
                assert!(reply.starts_with("452 4.3.1 "), "{reply}");
                break;
            }
        }
    }
}

/// Sends over every client until each of them has got one through.
fn resume(numbered: &mut Numbered, clients: &mut [Client]) {
    for client in clients {
        wait_until("mail is taken again", || {
            let reply = numbered.send(client, MESSAGE_BYTES);
            assert!(reply.starts_with("250") || reply.starts_with("452 4.3.1 "), "{reply}");
            reply.starts_with("250")
        });
    }
}

fn fills_and_resumes(disk: &Disk) {
    let min_free = 8 * MIB;
    let address = free_address();
    let mut server = Server::stopped(disk.path().join("data"), address, &extra("8MiB"));
    server.start_again();
    let (mut numbered, mut clients) = (Numbered::default(), clients(&server));
    fill(&mut numbered, &mut clients);
    assert!(numbered.accepted.len() >= 50, "only {} fit", numbered.accepted.len());
    let free = disk.free_bytes();
    assert!(free >= min_free, "{free} bytes are free, {min_free} were to be left");
    let next_hop = NextHop::start_on(address, Behaviour::default());
    next_hop.wait_for(numbered.accepted.len());
    resume(&mut numbered, &mut clients);
    numbered.audit(&next_hop.wait_for(numbered.accepted.len()));
    assert!(server.stop().success(), "{}", server.stderr());
    server.start_again();
    assert_eq!(server.metric("ringpost_queue_messages"), 0.0);
    assert!(disk.free_bytes() >= min_free);
}

#[test]
fn a_full_ext4_refuses_mail_and_takes_it_again_once_the_next_hop_does() {
    let Some(disk) = Disk::ext4(128, Ext4::Usual) else { return };
    fills_and_resumes(&disk);
}

#[test]
fn a_full_tmpfs_refuses_mail_and_takes_it_again_once_the_next_hop_does() {
    let Some(disk) = Disk::tmpfs(128) else { return };
    fills_and_resumes(&disk);
}

#[test]
fn a_disk_that_others_fill_refuses_mail_until_they_make_room() {
    let Some(disk) = Disk::ext4(128, Ext4::Usual) else { return };
    let address = free_address();
    let data_dir = disk.path().join("data");
    let mut server = Server::stopped(data_dir.clone(), address, &extra("0B"));
    server.start_again();
    let (mut numbered, mut clients) = (Numbered::default(), clients(&server));
    disk.fill();
    fill(&mut numbered, &mut clients);
    let before = numbered.accepted.len();
    let bytes = |shard: &str| bytes_of(&data_dir.join(shard), "seg.");
    let pool_bytes = bytes("shard-00") + bytes("shard-01");
    // Nobody takes mail from us, and yet there is room again.
    disk.remove_filler();
    resume(&mut numbered, &mut clients);
    fill(&mut numbered, &mut clients);
    assert!(numbered.accepted.len() > before + clients.len());
    assert!(bytes("shard-00") + bytes("shard-01") > pool_bytes);
    let next_hop = NextHop::start_on(address, Behaviour::default());
    numbered.audit(&next_hop.wait_for(numbered.accepted.len()));
}

#[test]
fn a_server_on_a_full_disk_stops_in_order_and_starts_again() {
    let Some(disk) = Disk::ext4(128, Ext4::Usual) else { return };
    let address = free_address();
    let mut server = Server::stopped(disk.path().join("data"), address, &extra("0B"));
    server.start_again();
    let mut numbered = Numbered::default();
    fill(&mut numbered, &mut clients(&server));
    disk.fill();
    assert!(server.stop().success(), "{}", server.stderr());
    server.start_again();
    let next_hop = NextHop::start_on(address, Behaviour::default());
    numbered.audit(&next_hop.wait_for(numbered.accepted.len()));
    resume(&mut numbered, &mut clients(&server));
    numbered.audit(&next_hop.wait_for(numbered.accepted.len()));
}

#[test]
fn a_first_start_on_a_full_disk_says_so_and_succeeds_later() {
    let Some(disk) = Disk::ext4(96, Ext4::Usual) else { return };
    let next_hop = NextHop::start(Behaviour::default());
    let data_dir = disk.path().join("data");
    let mut server = Server::stopped(data_dir.clone(), next_hop.address, &extra("0B"));
    disk.fill();
    let output = server.run(&["serve"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(73), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    let path = data_dir.to_str().expect("a path of text");
    assert!(text.contains(path) && text.contains("No space left on device"), "{text}");
    disk.remove_filler();
    server.start_again();
    let mut numbered = Numbered::default();
    resume(&mut numbered, &mut clients(&server));
    numbered.audit(&next_hop.wait_for(numbered.accepted.len()));
}
