//! Accounts and their partitions, as an operator sees them.

use crate::harness::{Server, free_address};

const LOCAL: &str = "[mailboxes]\ndomains = [\"local.test\"]\n";

#[test]
fn partitions_stay_as_many_as_they_were_first() {
    let mut server = Server::start(free_address(), "[shards]\ncount = 2\n");
    assert!(!server.data_dir().join("mail").exists(), "nothing is made for nobody");
    let mut restart = |extra: &str| {
        server.stop();
        server.write_config(free_address(), extra);
        server.start_again();
        let partitions = std::fs::read_dir(server.data_dir().join("mail")).expect("a directory");
        (partitions.count(), server.stderr().matches("of 0 accounts in 3 partitions").count())
    };
    let of = |shards: usize| format!("{LOCAL}[shards]\ncount = {shards}\n");
    assert_eq!(restart(&of(3)), (3, 1));
    // One shard has all of them, four have one or none, and none is lost without a local domain.
    assert_eq!(restart(&of(1)), (3, 2));
    assert_eq!(restart(&of(4)), (3, 3));
    assert_eq!(restart("[shards]\ncount = 2\n"), (3, 4));
}

#[test]
fn a_foreign_partition_stops_the_start_and_is_named() {
    let mut server = Server::start(free_address(), LOCAL);
    server.stop();
    let lock = server.data_dir().join("mail/p00/LOCK");
    let text = std::fs::read_to_string(&lock).expect("a lock");
    std::fs::write(&lock, text.replace("partition 0", "partition 7")).expect("written");
    let output = server.run(&["serve"]);
    assert_eq!(output.status.code(), Some(65), "EX_DATAERR");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("partition 0 of mailboxes: "), "{said}");
    assert!(said.contains("mail/p00/LOCK: not the lock"), "{said}");
}
