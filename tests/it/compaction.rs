//! Mail that waits among mail that does not: the journal takes in more than it holds, and what
//! waited arrives octet for octet, after a kill as well.

use crate::harness::{Behaviour, NextHop, Server, free_address, wait_until};

/// Content of message `number`, with lines of its own.
fn content(number: usize, bytes: usize) -> Vec<u8> {
    let mut content = format!("X-Id: {number}\r\n\r\n").into_bytes();
    let mut line = 0;
    while content.len() < bytes {
        content.extend_from_slice(format!("line {line} of message {number}\r\n").as_bytes());
        line += 1;
    }
    content
}

#[test]
fn a_journal_takes_in_more_than_it_holds_while_old_mail_waits() {
    let hop = NextHop::start(Behaviour::default());
    let waits_for = free_address();
    let extra = format!(
        "[queue]\nretry_wait_min = \"300ms\"\nretry_wait_max = \"2s\"\n\
         content_cache_bytes = \"1MiB\"\n\
         [journal]\nsegment_bytes = \"4MiB\"\nbytes_max = \"64MiB\"\nmin_free_bytes = \"0B\"\n\
         [reception]\nmessage_bytes_max = \"4MiB\"\n[shards]\ncount = 1\n\
         [[route]]\ndomain = \"waits.test\"\nnext_hop = \"smtp://{waits_for}\"\n"
    );
    let mut server = Server::start(hop.address, &extra);
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    let mut send = |to: &str, content: &[u8]| {
        wait_until("mail is taken", || {
            for line in ["MAIL FROM:<a@from.test>".to_owned(), format!("RCPT TO:<b@{to}>")] {
                if !client.say(&line).starts_with("250") {
                    client.say("RSET");
                    return false;
                }
            }
            if !client.say("DATA").starts_with("354") {
                client.say("RSET");
                return false;
            }
            client.send(content);
            client.send(b".\r\n");
            client.reply().starts_with("250")
        });
    };
    let mut waiting = Vec::new();
    for number in 0..ROUNDS {
        // Every fifth is kept in chunks.
        let bytes = if number % 5 == 0 { 600 << 10 } else { 3 << 10 };
        waiting.push(content(number, bytes));
        send("waits.test", &waiting[number]);
        for _ in 0..OTHERS {
            send("goes.test", &content(number, 200 << 10));
        }
    }
    hop.wait_for(ROUNDS * OTHERS);
    assert!(server.metric("ringpost_journal_moved_bytes_total") >= (600 << 10) as f64);
    assert!(server.metric("ringpost_journal_checkpoints_total") >= 2.0);
    server.kill();
    server.start_again();
    assert_eq!(server.metric("ringpost_queue_messages"), ROUNDS as f64);
    let hop = NextHop::start_on(waits_for, Behaviour::default());
    let mut got: Vec<Vec<u8>> =
        hop.wait_for(ROUNDS).iter().map(|got| got.original().to_vec()).collect();
    got.sort();
    waiting.sort();
    assert!(got == waiting, "what waited is not what arrived");
}

const ROUNDS: usize = 30;
/// With them, 77 MB pass through a journal of 64 MiB.
const OTHERS: usize = 12;
