//! Who is told what became of a message (RFC 3461, RFC 3464).

use crate::harness::{Behaviour, Client, Got, NextHop, Server, wait_until};
use crate::steer::ask;

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
    let mut told: Vec<String> = next_hop.wait_for(2).iter().map(|it| it.to[0].clone()).collect();
    told.sort_by_key(|address| address.to_ascii_lowercase());
    assert!(told[0].eq_ignore_ascii_case("a@from.test") && told[1] == "b@from.test", "{told:?}");
    wait_until("one waits", || server.metric("ringpost_queue_messages") == 1.0);
}

/// Towards a next hop that delays everything, with reports going to another one.
fn delaying(extra: &str) -> (NextHop, NextHop, Server) {
    let delaying = NextHop::start(Behaviour {
        on_rcpt: Box::new(|_, _| Some("450 4.2.1 not now".into())),
        ..Behaviour::default()
    });
    let reports = NextHop::start(Behaviour::default());
    let extra = format!(
        "[[route]]\ndomain = \"from.test\"\nnext_hop = \"smtp://{}\"\n\
         [queue]\nretry_wait_min = \"100ms\"\nretry_wait_max = \"200ms\"\n{extra}",
        reports.address
    );
    let server = Server::start(delaying.address, &extra);
    (delaying, reports, server)
}

#[test]
fn a_delay_is_told_of_once_and_over_a_restart() {
    let rule = "[[retry]]\ndomain = \"*to.test\"\ndelay_notice = \"1s\"\nlifetime = \"5d\"\n";
    let (_delaying, reports, mut server) = delaying(rule);
    let mut client = greeted(&server);
    let rcpts = [
        "<b@to.test>",
        "<c@to.test> NOTIFY=DELAY ORCPT=rfc822;x@to.test",
        "<d@to.test> NOTIFY=NEVER",
        "<e@to.test> NOTIFY=FAILURE,SUCCESS",
    ];
    send(&mut client, "<a@from.test> ENVID=Q", &rcpts);
    send(&mut client, "<>", &["<f@to.test> NOTIFY=DELAY"]);
    let text = report_of(&reports.wait_for(1));
    for part in [
        "Subject: Delayed mail, still being tried\r\n",
        "Original-Envelope-Id: Q\r\n",
        "Original-Recipient: rfc822;x@to.test\r\nFinal-Recipient: rfc822;c@to.test\r\n\
         Action: delayed\r\nStatus: 4.",
        "450 4.2.1 not now",
        "Will-Retry-Until: ",
        "Content-Type: text/rfc822-headers\r\n",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(text.contains("rfc822;b@to.test"), "{text}");
    assert!(!text.contains("rfc822;d@") && !text.contains("rfc822;e@") && !text.contains("f@to"));
    let attempts = |server: &Server| server.metric("ringpost_delivery_attempts_total");
    let before = attempts(&server);
    wait_until("it is tried again", || attempts(&server) >= before + 4.0);
    assert!(server.stop().success(), "{}", server.stderr());
    server.start_again();
    wait_until("it is tried again", || attempts(&server) >= 4.0);
    assert_eq!(server.metric("ringpost_queue_notifications_total"), 0.0);
    assert_eq!(reports.got().len(), 1);
}

#[test]
fn a_delay_of_mail_that_is_not_tried_is_told_of_as_well() {
    let reports = NextHop::start(Behaviour::default());
    let extra = format!(
        "[[route]]\ndomain = \"from.test\"\nnext_hop = \"smtp://{}\"\n\
         [queue]\nretry_wait_min = \"500ms\"\nretry_wait_max = \"500ms\"\n\
         [shards]\ncount = 1\n[[retry]]\ndelay_notice = \"2s\"\n",
        reports.address
    );
    // Nobody listens there: one message is tried, the others wait for the site.
    let server = Server::start(crate::harness::free_address(), &extra);
    let mut client = greeted(&server);
    for index in 0..3 {
        send(&mut client, &format!("<a{index}@from.test>"), &["<b@to.test>"]);
    }
    let mut told: Vec<String> = reports.wait_for(3).iter().map(|it| it.to[0].clone()).collect();
    told.sort();
    assert_eq!(told, ["a0@from.test", "a1@from.test", "a2@from.test"]);
}

#[test]
fn a_rule_of_retry_gives_a_domain_its_own_lifetime() {
    let rules = "lifetime = \"5d\"\n\
                 [[retry]]\ndomain = \"short.test\"\nlifetime = \"1s\"\n";
    let (_delaying, reports, server) = delaying(rules);
    let mut client = greeted(&server);
    send(&mut client, "<a@from.test>", &["<b@short.test>", "<c@long.test>"]);
    let text = report_of(&reports.wait_for(1));
    assert!(text.contains("Action: failed\r\n") && text.contains("rfc822;b@short.test"), "{text}");
    assert!(!text.contains("c@long.test"), "{text}");
    wait_until("one is left", || server.metric("ringpost_queue_messages") == 1.0);
    // A reload holds for mail that is queued already.
    let before = std::fs::read_to_string(server.config_path()).expect("a configuration");
    let after = before.replace("short.test", "long.test");
    std::fs::write(server.config_path(), after).expect("a configuration");
    server.signal("HUP");
    let text = reports.wait_for(2).remove(1).content;
    assert!(String::from_utf8_lossy(&text).contains("rfc822;c@long.test"));
}

#[test]
fn mail_that_nobody_serves_is_reported_in_time() {
    let next_hop = next_hop(&["PIPELINING", "8BITMIME"]);
    let slow = NextHop::start(Behaviour::default());
    let extra = format!(
        "[queue]\nlifetime = \"10s\"\n\
         [[route]]\ndomain = \"limited.test\"\nnext_hop = \"smtp://{0}\"\n\
         [[limit]]\nmatch = \"{0}\"\nmessages_per_day = 1\n\
         [[retry]]\ndomain = \"told.test\"\nlifetime = \"1h\"\ndelay_notice = \"1s\"\n",
        slow.address
    );
    let server = Server::start(next_hop.address, &extra);
    for domain in ["told.test", "over.test"] {
        ask(&server, &["queue", "suspend", "--domain", domain]);
    }
    let mut client = greeted(&server);
    for (rcpt, from) in [
        ("<a@told.test>", "<told@from.test>"),
        ("<a@over.test>", "<over@from.test>"),
        ("<1@limited.test>", "<first@from.test>"),
        ("<2@limited.test>", "<second@from.test>"),
    ] {
        send(&mut client, from, &[rcpt]);
    }
    let got = next_hop.wait_for(3);
    let report_to = |to: &str| {
        let report = got.iter().find(|it| it.to == [to]);
        let report = report.unwrap_or_else(|| panic!("no report to {to}"));
        String::from_utf8_lossy(&report.content).into_owned()
    };
    assert!(report_to("told@from.test").contains("Action: delayed\r\n"));
    assert!(report_to("over@from.test").contains("Action: failed\r\nStatus: 5.4.7\r\n"));
    let limited = slow.wait_for(1);
    let late = if limited[0].to == ["1@limited.test"] { "second" } else { "first" };
    let text = report_to(&format!("{late}@from.test"));
    assert!(text.contains("Message expired before it could be tried"), "{text}");
    wait_until("what was only told of waits", || server.metric("ringpost_queue_messages") == 1.0);
    ask(&server, &["queue", "resume", "--all"]);
    assert_eq!(next_hop.wait_for(4)[3].to, ["a@told.test"]);
}

#[test]
fn a_report_on_8_bit_mail_reaches_a_next_hop_without_8bitmime() {
    let seven_bit = next_hop(&["PIPELINING"]);
    let refusing = next_hop(&["PIPELINING", "8BITMIME"]);
    let route = "[[route]]\ndomain = \"to.test\"\nnext_hop = \"smtp://HOP\"\n";
    let server =
        Server::start(seven_bit.address, &route.replace("HOP", &refusing.address.to_string()));
    let mut client = greeted(&server);
    let content = "Subject: über\r\n\r\nkörper\r\n".as_bytes();
    let reply = client.message("a@from.test", &["no@to.test"], content);
    assert!(reply.starts_with("250"), "{reply}");
    let got = seven_bit.wait_for(1);
    let text = report_of(&got);
    assert!(text.is_ascii() && !got[0].commands[0].contains("BODY="), "{text}");
    for part in ["Action: failed\r\n", "text/rfc822-headers\r\n", "Subject: =C3=BCber\r\n"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(!text.contains("rper"), "{text}");
    settled(&server);
    assert_eq!(server.metric("ringpost_queue_notifications_failed_total"), 0.0);
}
