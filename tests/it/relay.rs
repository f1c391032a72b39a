//! From a client to the next hop.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::harness::{
    Behaviour, Client, NextHop, Server, canonical, eml_files, free_address, stuffed, testdata,
    wait_until,
};

fn deliver(extensions: &'static [&'static str], contents: &[Vec<u8>]) {
    let next_hop = NextHop::start(Behaviour { extensions, ..Behaviour::default() });
    let mut server = Server::start(next_hop.address, "");
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    for content in contents {
        let reply = client.message("a@from.test", &["b@to.test"], &stuffed(content));
        assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{reply}");
    }
    let mut got: Vec<Vec<u8>> = next_hop
        .wait_for(contents.len())
        .iter()
        .map(|message| {
            assert_eq!((&*message.from, &*message.to), ("a@from.test", &["b@to.test".into()][..]));
            message.original().to_vec()
        })
        .collect();
    let mut expected = contents.to_vec();
    got.sort();
    expected.sort();
    assert_eq!(got, expected, "towards {extensions:?}");
    assert!(server.stop().success(), "{}", server.stderr());
}

#[test]
fn content_arrives_as_it_came_whatever_the_next_hop_offers() {
    let mut contents: Vec<Vec<u8>> = vec![
        b"\r\n".to_vec(),
        b"Subject: x\r\n\r\n.\r\n..\r\n.dot\r\n".to_vec(),
        b"no header section\r\n".to_vec(),
        // Larger than one chunk, with dots where chunks meet.
        [b"S: x\r\n\r\n".to_vec(), b".line of some length\r\n".repeat(40_000)].concat(),
    ];
    if let Some(directory) = testdata("mime-mail-parser") {
        let files = eml_files(&directory);
        println!("{} messages of other people", files.len());
        contents.extend(files.iter().map(|path| canonical(&std::fs::read(path).expect("a file"))));
    }
    let ascii: Vec<Vec<u8>> = contents.iter().filter(|it| it.is_ascii()).cloned().collect();
    deliver(&["PIPELINING", "8BITMIME"], &contents);
    deliver(&["PIPELINING", "8BITMIME", "CHUNKING", "SIZE 0"], &contents);
    deliver(&["8BITMIME"], &contents);
    deliver(&[], &ascii);
}

#[test]
fn several_recipients_travel_by_domain_and_end_each_in_their_own_way() {
    let next_hop = NextHop::start(Behaviour {
        on_rcpt: Box::new(|recipient, _| match recipient {
            "no@one.test" => Some("550 5.1.1 no such mailbox".into()),
            _ => None,
        }),
        ..Behaviour::default()
    });
    let server = Server::start(next_hop.address, "[queue]\nretry_wait_min = \"200ms\"\n");
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    let to = ["yes@one.test", "no@one.test", "also@ONE.test", "x@two.test"];
    let reply = client.message("sender@from.test", &to, b"Subject: several\r\n\r\nhi\r\n");
    assert!(reply.starts_with("250"), "{reply}");
    // Two domains, and a report on the one that failed.
    let got = next_hop.wait_for(3);
    let to_one = got.iter().find(|it| it.to[0] == "yes@one.test").expect("the first domain");
    assert_eq!(to_one.to, ["yes@one.test", "also@ONE.test"]);
    assert!(got.iter().any(|it| it.to == ["x@two.test"]));
    let report = got.iter().find(|it| it.from.is_empty()).expect("a report");
    assert_eq!(report.to, ["sender@from.test"]);
    let text = String::from_utf8_lossy(&report.content);
    for part in [
        "report-type=delivery-status",
        "Final-Recipient: rfc822;no@one.test",
        "Action: failed",
        "Status: 5.1.1",
        "Subject: several",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(!text.contains("rfc822;yes@one.test"));
    wait_until("the queue is empty", || server.metric("ringpost_queue_messages") == 0.0);
    wait_until("it is logged", || {
        let log = server.log();
        log.contains("outcome=failed") && log.contains("recipient=<no@one.test>")
    });
}

#[test]
fn a_delayed_recipient_is_tried_again_until_it_succeeds() {
    let count = Arc::new(AtomicUsize::new(0));
    let of_hop = count.clone();
    let next_hop = NextHop::start(Behaviour {
        on_rcpt: Box::new(move |_, _| {
            let attempt = of_hop.fetch_add(1, Ordering::SeqCst);
            (attempt < 2).then(|| "450 4.2.1 later".into())
        }),
        ..Behaviour::default()
    });
    let server = Server::start(
        next_hop.address,
        "[queue]\nretry_wait_min = \"100ms\"\nretry_wait_max = \"200ms\"\n",
    );
    let mut client = server.client();
    client.expect("HELO client.test", "250");
    client.message("a@from.test", &["b@to.test"], b"x: y\r\n\r\n");
    next_hop.wait_for(1);
    assert_eq!(count.load(Ordering::SeqCst), 3);
    wait_until("it is logged", || server.log().contains("outcome=relayed"));
    assert_eq!(server.log().matches("outcome=delayed").count(), 2);
}

#[test]
fn mail_for_a_next_hop_that_is_down_waits_for_it_and_over_a_restart() {
    let address = free_address();
    let extra = "[queue]\nretry_wait_min = \"200ms\"\nretry_wait_max = \"300ms\"\n";
    let mut server = Server::start(address, extra);
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    for index in 0..20 {
        let to = format!("b{index}@to{}.test", index % 3);
        let reply = client.message("a@from.test", &[&to], b"x: y\r\n\r\n");
        assert!(reply.starts_with("250"), "{reply}");
    }
    wait_until("an attempt has failed", || server.log().contains("outcome=delayed"));
    drop(client);
    assert!(server.stop().success(), "{}", server.stderr());
    server.start_again();
    assert_eq!(server.metric("ringpost_queue_messages"), 20.0);
    let next_hop = NextHop::start_on(address, Behaviour::default());
    let mut to: Vec<String> = next_hop.wait_for(20).iter().map(|it| it.to[0].clone()).collect();
    to.sort();
    to.dedup();
    assert_eq!(to.len(), 20, "each once");
    wait_until("the queue is empty", || server.metric("ringpost_queue_messages") == 0.0);
}

#[test]
fn a_retry_goes_to_those_who_are_left_over_a_restart_too() {
    let takes_all = Arc::new(AtomicBool::new(false));
    let of_hop = takes_all.clone();
    let next_hop = NextHop::start(Behaviour {
        on_rcpt: Box::new(move |recipient, _| {
            if recipient == "no@to.test" {
                return Some("550 5.1.1 no such mailbox".into());
            }
            let waits = recipient == "later@to.test" && !of_hop.load(Ordering::SeqCst);
            waits.then(|| "450 4.2.1 not yet".into())
        }),
        ..Behaviour::default()
    });
    let mut server = Server::start(
        next_hop.address,
        "[queue]\nretry_wait_min = \"300ms\"\nretry_wait_max = \"400ms\"\n",
    );
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    let to = ["yes@to.test", "later@to.test", "no@to.test"];
    let reply = client.message("sender@from.test", &to, b"x: y\r\n\r\n");
    let id = reply.rsplit(' ').next().expect("an id").to_owned();
    // The first attempt, and the report on who Failed in it.
    next_hop.wait_for(2);
    wait_until("a second attempt", || server.log().matches("outcome=delayed").count() >= 2);
    let config = server.config_path();
    let show = ["queue", "show", &id, "--config", config.to_str().expect("a path")];
    let shown = Command::new(env!("CARGO_BIN_EXE_ringpost")).args(show).output();
    let shown = shown.expect("ringpost runs");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    for part in ["yes@to.test", "relayed", "550 5.1.1", "450 4.2.1 not yet"] {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
    drop(client);
    server.kill();
    takes_all.store(true, Ordering::SeqCst);
    server.start_again();
    let got = next_hop.wait_for(3);
    let to: Vec<&[String]> = got.iter().map(|it| &*it.to).collect();
    let once = |address: &str| to.iter().filter(|to| **to == [address.to_owned()]).count() == 1;
    assert!(once("yes@to.test") && once("later@to.test") && once("sender@from.test"), "{to:?}");
    wait_until("the queue is empty", || server.metric("ringpost_queue_messages") == 0.0);
    assert!(server.stop().success(), "{}", server.stderr());
}

#[test]
fn mail_that_outlives_its_lifetime_is_returned() {
    let refused = free_address();
    let extra = "[queue]\nretry_wait_min = \"100ms\"\nretry_wait_max = \"100ms\"\n\
                 lifetime = \"1s\"\n\
                 [[route]]\ndomain = \"from.test\"\nnext_hop = \"smtp://HOP\"\n";
    let next_hop = NextHop::start(Behaviour::default());
    let extra = extra.replace("HOP", &next_hop.address.to_string());
    let server = Server::start(refused, &extra);
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    client.message("a@from.test", &["b@to.test"], b"Subject: lost\r\n\r\n");
    let report = next_hop.wait_for(1).remove(0);
    assert_eq!((&*report.from, &report.to[0][..]), ("", "a@from.test"));
    let text = String::from_utf8_lossy(&report.content);
    assert!(text.contains("Subject: lost") && text.contains("Action: failed"), "{text}");
}

#[test]
fn lmtp_next_hops_answer_for_each_recipient() {
    // One recipient: a reply a recipient is then one reply, as the tests' next hop gives it.
    let next_hop = NextHop::start(Behaviour::default());
    let extra = format!(
        "[[route]]\ndomain = \"*.local.test\"\nnext_hop = \"lmtp://{}\"\n",
        next_hop.address
    );
    let server = Server::start(free_address(), &extra);
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    client.message("a@from.test", &["b@in.local.test"], b"x: y\r\n\r\n");
    assert_eq!(next_hop.wait_for(1)[0].to, ["b@in.local.test"]);
    wait_until("it is logged", || server.log().contains("site=lmtp://"));
}

#[test]
fn chunks_and_pipelines_are_accepted_in_one_packet() {
    let next_hop = NextHop::start(Behaviour::default());
    let server = Server::start(next_hop.address, "");
    let mut client = Client::connect(server.address);
    client.send(
        b"EHLO c\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n\
          BDAT 6\r\nx: y\r\nBDAT 2 LAST\r\n\r\n\
          MAIL FROM:<>\r\nRCPT TO:<Postmaster>\r\nDATA\r\nz\r\n.\r\nQUIT\r\n",
    );
    let codes: Vec<String> = (0..10).map(|_| client.reply()[..3].to_owned()).collect();
    let expected = ["250", "250", "250", "250", "250", "250", "250", "354", "250", "221"];
    assert_eq!(codes, expected);
    let got = next_hop.wait_for(2);
    assert!(got.iter().any(|it| it.original() == b"x: y\r\n\r\n"));
    assert!(got.iter().any(|it| it.to == ["Postmaster"] && it.from.is_empty()));
}
