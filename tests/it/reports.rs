//! Who is told what became of a message (RFC 3461, RFC 3464).

use crate::harness::{Behaviour, Client, Got, NextHop, Server, wait_until};

/// Recipients whose local-part begins with `no` are refused for good, as are reports to `gone`.
fn refuse(recipient: &str, _: usize) -> Option<String> {
    let refused = recipient.starts_with("no") || recipient.starts_with("gone@");
    refused.then(|| "550 5.1.1 no such mailbox".into())
}

fn next_hop(extensions: &'static [&'static str]) -> NextHop {
    NextHop::start(Behaviour { extensions, on_rcpt: Box::new(refuse), ..Behaviour::default() })
}

/// A message with these lines behind `MAIL FROM:` and `RCPT TO:`.
fn send(client: &mut Client, mail: &str, rcpts: &[&str]) {
    client.expect(&format!("MAIL FROM:{mail}"), "250");
    for rcpt in rcpts {
        client.expect(&format!("RCPT TO:{rcpt}"), "250");
    }
    client.expect("DATA", "354");
    client.send(b"Subject: original\r\n\r\nbody of it\r\n.\r\n");
    assert!(client.reply().starts_with("250"));
}

fn greeted(server: &Server) -> Client {
    let mut client = server.client();
    let extensions = client.expect("EHLO client.test", "250");
    assert!(extensions.contains("250-DSN"), "{extensions}");
    client
}

fn report_of(got: &[Got]) -> String {
    let mut reports = got.iter().filter(|it| it.from.is_empty());
    let report = reports.next().expect("a report");
    assert!(reports.next().is_none(), "one report for what ended together");
    String::from_utf8(report.content.clone()).expect("ASCII")
}

fn settled(server: &Server) {
    wait_until("the queue is empty", || server.metric("ringpost_queue_messages") == 0.0);
}

#[test]
fn a_next_hop_with_dsn_is_told_what_the_client_wants() {
    let next_hop = next_hop(&["PIPELINING", "8BITMIME", "DSN"]);
    let server = Server::start(next_hop.address, "");
    let mut client = greeted(&server);
    let rcpts = [
        "<b@to.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b+2Bold@to.test",
        "<c@to.test> NOTIFY=NEVER",
        "<d@to.test>",
    ];
    send(&mut client, "<a@from.test> RET=HDRS ENVID=QQ+20314159", &rcpts);
    let got = next_hop.wait_for(1).remove(0);
    assert!(got.commands[0].ends_with(" RET=HDRS ENVID=QQ+20314159"), "{:?}", got.commands);
    let expected = rcpts.map(|rcpt| format!("RCPT TO:{rcpt}"));
    assert_eq!(got.commands[1..], expected);
    // Whoever took the wishes over reports; nothing comes from here.
    settled(&server);
    assert_eq!(next_hop.got().len(), 1);
    assert_eq!(server.metric("ringpost_queue_notifications_total"), 0.0);
}

#[test]
fn success_is_reported_where_the_next_hop_will_not_do_it() {
    let next_hop = next_hop(&["PIPELINING", "8BITMIME"]);
    let lmtp = NextHop::start(Behaviour::default());
    let route = "[[route]]\ndomain = \"local.test\"\nnext_hop = \"lmtp://HOP\"\n";
    let route = route.replace("HOP", &lmtp.address.to_string());
    let server = Server::start(next_hop.address, &route);
    let mut client = greeted(&server);
    let rcpts = [
        "<b@to.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;b+2Bold@to.test",
        "<no@to.test> NOTIFY=SUCCESS",
        "<c@to.test> NOTIFY=FAILURE",
        "<d@to.test>",
    ];
    send(&mut client, "<a@from.test> RET=FULL ENVID=QQ+20314159", &rcpts);
    let text = report_of(&next_hop.wait_for(2));
    for part in [
        "To: <a@from.test>\r\n",
        "Subject: Mail delivered or relayed\r\n",
        "Original-Envelope-Id: QQ 314159\r\n",
        "Original-Recipient: rfc822;b+old@to.test\r\n",
        "Final-Recipient: rfc822;b@to.test\r\n",
        "Action: relayed\r\nStatus: 2.0.0\r\nRemote-MTA: dns;[127.0.0.1]\r\n",
        // Nothing Failed: only the header section returns, whatever RET says.
        "Content-Type: text/rfc822-headers\r\n",
        "Subject: original\r\n",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(!text.contains("rfc822;c@") && !text.contains("rfc822;d@") && !text.contains("<no@"));
    assert!(!text.contains("body of it"));
    send(&mut client, "<a@from.test>", &["<e@local.test> NOTIFY=SUCCESS"]);
    let got = next_hop.wait_for(3);
    assert!(String::from_utf8_lossy(&got[2].content).contains("Action: delivered\r\n"));
    wait_until("it is logged", || server.log().contains("outcome=delivered"));
}

#[test]
fn a_failure_is_reported_to_whoever_wants_it_and_returns_what_was_asked_for() {
    let next_hop = next_hop(&["PIPELINING", "8BITMIME"]);
    let server = Server::start(next_hop.address, "");
    let mut client = greeted(&server);
    let rcpts = ["<no1@to.test> NOTIFY=NEVER", "<no2@to.test> NOTIFY=SUCCESS,DELAY"];
    send(&mut client, "<a@from.test>", &rcpts);
    send(&mut client, "<>", &["<no3@to.test> NOTIFY=FAILURE"]);
    settled(&server);
    assert_eq!(next_hop.got().len(), 0, "nobody wants to know");

    send(&mut client, "<a@from.test> RET=HDRS", &["<no1@to.test>", "<no2@to.test> NOTIFY=FAILURE"]);
    let text = report_of(&next_hop.wait_for(1));
    assert!(text.contains("rfc822;no1@") && text.contains("rfc822;no2@"), "{text}");
    assert!(text.contains("Diagnostic-Code: smtp;550 5.1.1 no such mailbox\r\n"), "{text}");
    assert!(!text.contains("body of it"), "{text}");
    send(&mut client, "<b@from.test> RET=FULL", &["<no1@to.test>"]);
    let got = next_hop.wait_for(2);
    let text = String::from_utf8_lossy(&got[1].content);
    assert!(text.contains("Content-Type: message/rfc822\r\n"), "{text}");
    assert!(text.contains("body of it"), "{text}");
}

#[test]
fn a_report_that_fails_goes_to_the_postmaster_once() {
    let next_hop = next_hop(&["PIPELINING", "8BITMIME"]);
    let extra = "[queue]\ndouble_bounce = \"postmaster@here.test\"\n";
    let mut server = Server::start(next_hop.address, extra);
    let mut client = greeted(&server);
    send(&mut client, "<gone@from.test>", &["<no@to.test>"]);
    let got = next_hop.wait_for(1);
    assert_eq!(got[0].to, ["postmaster@here.test"]);
    let text = report_of(&got);
    for part in [
        "Subject: Undelivered report of this mail system\r\n",
        "Final-Recipient: rfc822;gone@from.test\r\n",
        "Subject: Undelivered mail returned to sender\r\n",
        "body of it",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    settled(&server);
    assert_eq!(server.metric("ringpost_queue_notifications_failed_total"), 1.0);

    // Where the postmaster cannot be reached either, that is the end of it.
    server.write_config(next_hop.address, &extra.replace("postmaster", "nobody"));
    server.signal("HUP");
    wait_until("it is reloaded", || server.stderr().contains("reloaded"));
    send(&mut client, "<gone@from.test>", &["<no@to.test>"]);
    let failed = || server.metric("ringpost_queue_notifications_failed_total") == 3.0;
    wait_until("two more reports have failed", failed);
    settled(&server);
    assert_eq!(next_hop.got().len(), 1);
    assert!(server.stop().success(), "{}", server.stderr());
}

#[test]
fn without_a_postmaster_a_report_that_fails_is_dropped_and_counted() {
    let next_hop = next_hop(&["PIPELINING", "8BITMIME"]);
    let server = Server::start(next_hop.address, "");
    let mut client = greeted(&server);
    send(&mut client, "<gone@from.test>", &["<no@to.test>"]);
    let failed = || server.metric("ringpost_queue_notifications_failed_total") == 1.0;
    wait_until("the report has failed", failed);
    settled(&server);
    assert_eq!(next_hop.got().len(), 0);
}

#[test]
fn reports_to_one_address_wait_for_their_turn() {
    let next_hop = next_hop(&["PIPELINING", "8BITMIME"]);
    let extra = "[queue]\nnotifications_per_minute = 1\n[shards]\ncount = 1\n";
    let server = Server::start(next_hop.address, extra);
    let mut client = greeted(&server);
    for reverse_path in ["<a@from.test>", "<A@from.test>", "<b@from.test>"] {
        send(&mut client, reverse_path, &["<no@to.test>"]);
    }
    let made = || server.metric("ringpost_queue_notifications_total") == 3.0;
    wait_until("three reports are made", made);
    assert_eq!(server.metric("ringpost_queue_notifications_paced_total"), 1.0);
    next_hop.wait_for(2);
}
