//! Orders that change where queued mail goes, and those that stand for mail to come.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::harness::{Behaviour, Client, NextHop, Server, free_address, wait_until};

/// The lines of JSON that a successful command prints.
pub fn ask(server: &Server, arguments: &[&str]) -> Vec<Value> {
    let output = server.run(&[arguments, &["--json"]].concat());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {text}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// (matched, done) of an order.
pub fn steer(server: &Server, arguments: &[&str]) -> (u64, u64) {
    let answer = ask(server, &[&["queue"], arguments].concat());
    let number = |name: &str| answer[0][name].as_u64().expect("a number");
    (number("matched"), number("done"))
}

/// Sends one message of a tenant and returns its queue id.
pub fn send(client: &mut Client, to: &str, tenant: &str) -> String {
    let content = format!("X-Tenant: {tenant}\r\nSubject: x\r\n\r\nbody\r\n");
    let reply = client.message("s@from.test", &[to], content.as_bytes());
    assert!(reply.starts_with("250"), "{reply}");
    reply.rsplit(' ').next().expect("an id").to_owned()
}

pub fn state_of(server: &Server, id: &str) -> String {
    let shown = ask(server, &["queue", "show", id]);
    shown[0]["tasks"][0]["state"].as_str().expect("a state").to_owned()
}

const TENANTS: &str = "[reception.headers]\ntenant = \"X-Tenant\"\n";

#[test]
fn a_suspended_tenant_waits_over_a_kill_and_others_do_not() {
    let next_hop = NextHop::start(Behaviour::default());
    let mut server = Server::start(next_hop.address, TENANTS);
    let given = ask(&server, &["queue", "suspend", "--tenant", "acme", "--note", "why not"]);
    assert_eq!(given[0]["mail"]["tenant"], "acme");
    assert_eq!(given[0]["note"], "why not");
    let mut client = server.greeted();
    let waiting = send(&mut client, "one@a.test", "acme");
    send(&mut client, "two@a.test", "other");
    assert_eq!(next_hop.wait_for(1)[0].to, ["two@a.test"]);
    assert_eq!(state_of(&server, &waiting), "ready");
    // Lines of the log are written behind the order: a kill takes the last of them along.
    wait_until("the order is in the log", || server.log().contains("order=\"suspend\""));

    server.kill();
    server.start_again();
    let standing = ask(&server, &["queue", "suspensions"]);
    assert_eq!(standing, given, "who, when and why are kept");
    let mut client = server.greeted();
    send(&mut client, "three@a.test", "acme");
    send(&mut client, "four@a.test", "");
    assert_eq!(next_hop.wait_for(2)[1].to, ["four@a.test"]);
    let dry = ["suspend", "--tenant", "ACME", "--dry-run"];
    assert_eq!(ask(&server, &[&["queue"], &dry[..]].concat())[0]["matched"], 2);

    let lifted = ask(&server, &["queue", "resume", "--tenant", "acme"]);
    assert_eq!(lifted, given);
    let mut got: Vec<String> = next_hop.wait_for(4).iter().map(|it| it.to[0].clone()).collect();
    got.sort();
    assert_eq!(got, ["four@a.test", "one@a.test", "three@a.test", "two@a.test"]);
    assert!(ask(&server, &["queue", "suspensions"]).is_empty());
    let again = server.run(&["queue", "resume", "--tenant", "acme"]);
    assert_eq!(again.status.code(), Some(69), "there is none any more");
    wait_until("the orders are in the log", || {
        let log = server.log();
        log.contains("order=\"suspend\"") && log.contains("result=\"1 suspensions lifted\"")
    });
    assert!(server.stop().success(), "{}", server.stderr());
}

#[test]
fn a_suspension_of_a_site_ends_by_its_time() {
    let next_hop = NextHop::start(Behaviour::default());
    let server = Server::start(next_hop.address, "");
    let site = next_hop.address.to_string();
    let elsewhere = ask(&server, &["queue", "suspend", "--site", "192.0.2.*"]);
    let given = ask(&server, &["queue", "suspend", "--site", &site, "--for", "2s"]);
    assert!(given[0]["until_ms"].as_u64() > given[0]["since_ms"].as_u64());
    send(&mut server.greeted(), "one@a.test", "");
    assert_eq!(next_hop.wait_for(1)[0].to, ["one@a.test"]);
    let left = ask(&server, &["queue", "suspensions"]);
    assert_eq!(left, elsewhere, "only the other is left");
    let number = elsewhere[0]["number"].to_string();
    assert_eq!(ask(&server, &["queue", "resume", &number]), elsewhere);
}

#[test]
fn what_waits_in_a_line_is_suspended_too() {
    let next_hop = NextHop::start(Behaviour {
        on_content: Box::new(|_, asked| (asked == 1).then(|| "451 4.3.0 later".to_owned())),
        ..Behaviour::default()
    });
    let server = Server::start(next_hop.address, "[queue]\nretry_wait_min = \"10m\"\n");
    let id = send(&mut server.greeted(), "one@a.test", "");
    wait_until("it was tried", || state_of(&server, &id) == "delayed");
    ask(&server, &["queue", "suspend", "--domain", "*.test"]);
    assert_eq!(steer(&server, &["retry", "--all"]), (1, 1));
    assert_eq!(state_of(&server, &id), "ready");
    ask(&server, &["queue", "suspend", "--domain", "b.test"]);
    assert_eq!(state_of(&server, &id), "ready", "another order changes nothing");
    assert_eq!(ask(&server, &["queue", "resume", "--all"]).len(), 2);
    next_hop.wait_for(1);
}

#[test]
fn damaged_suspensions_stop_a_start_with_one_line() {
    let mut server = Server::start(free_address(), "");
    ask(&server, &["queue", "suspend", "--all"]);
    server.kill();
    let path = server.directory.path().join("data/suspensions.json");
    let text = std::fs::read(&path).expect("the file");
    std::fs::write(&path, &text[..text.len() / 2]).expect("written");
    let output = server.run(&["serve"]);
    assert_eq!(output.status.code(), Some(65));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("suspensions.json: damaged: "), "{error}");
    std::fs::write(&path, &text).expect("written");
    server.start_again();
    assert_eq!(ask(&server, &["queue", "suspensions"]).len(), 1);
}

#[test]
fn a_rerouted_task_goes_to_the_other_next_hop_over_a_kill() {
    let (first, second) = (free_address(), free_address());
    let mut server = Server::start(first, "[queue]\nretry_wait_min = \"10m\"\n");
    let mut client = server.greeted();
    let elsewhere = send(&mut client, "one@a.test", "");
    let back = send(&mut client, "two@a.test", "");
    send(&mut client, "three@b.test", "");
    let waiting = || steer(&server, &["retry", "--all", "--dry-run"]).0;
    wait_until("all wait", || waiting() == 3);
    let to = format!("smtp://{second}");
    let reroute = ["reroute", "--domain", "a.test", "--to", &to];
    assert_eq!(steer(&server, &[&reroute[..], &["--dry-run"]].concat()), (2, 0));
    assert_eq!(steer(&server, &reroute), (2, 2));
    assert_eq!(steer(&server, &reroute), (0, 0), "they go there already");
    assert_eq!(steer(&server, &["reroute", "--id", &back, "--to", "default"]), (1, 1));
    server.kill();
    let first = NextHop::start_on(first, Behaviour::default());
    let second = NextHop::start_on(second, Behaviour::default());
    server.start_again();
    let by_site = ["retry", "--site", &to, "--dry-run"];
    wait_until("it is known after the restart", || {
        steer(&server, &["retry", "--all"]);
        steer(&server, &by_site).0 == 0 && first.got().len() == 2 && second.got().len() == 1
    });
    assert_eq!(second.wait_for(1)[0].to, ["one@a.test"]);
    let mut got: Vec<String> = first.wait_for(2).iter().map(|it| it.to[0].clone()).collect();
    got.sort();
    assert_eq!(got, ["three@b.test", "two@a.test"]);
    wait_until("the queue is empty", || server.metric("ringpost_queue_messages") == 0.0);
    let output = server.run(&["queue", "reroute", "--id", &elsewhere, "--to", "nowhere"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("expected smtp://"), "{error}");
}

#[test]
fn a_changed_class_and_a_held_task_stay_so_over_a_kill() {
    let mut server = Server::start(free_address(), "[queue]\nretry_wait_min = \"10m\"\n");
    let mut client = server.greeted();
    let id = send(&mut client, "one@a.test", "");
    send(&mut client, "two@a.test", "");
    wait_until("both wait", || steer(&server, &["retry", "--all", "--dry-run"]).0 == 2);
    assert_eq!(steer(&server, &["hold", "--id", &id]), (1, 1));
    assert_eq!(steer(&server, &["class", "transactional", "--id", &id]), (1, 1));
    assert_eq!(state_of(&server, &id), "held", "its class alone has changed");
    server.kill();
    server.start_again();
    let of_class = |class: &str| {
        steer(&server, &["bounce", "--class", class, "--domain", "*.test", "--dry-run"]).0
    };
    wait_until("nothing is under way", || of_class("bulk") == 1);
    assert_eq!(of_class("transactional"), 1);
    assert_eq!(state_of(&server, &id), "held");
    assert_eq!(steer(&server, &["class", "bulk", "--class", "transactional"]), (1, 1));
    assert_eq!(of_class("transactional"), 0);
}

/// The sum of a task's ledger, its age, and how long each cause took, in milliseconds.
fn ledger(message: &Value, task: usize) -> (u64, u64, Vec<(String, u64)>) {
    let task = &message["tasks"][task];
    let number = |value: &Value| value.as_u64().expect("a number");
    let waited = task["waited"].as_array().expect("rows");
    let rows = waited
        .iter()
        .map(|row| (row["cause"].as_str().expect("a cause").to_owned(), number(&row["ms"])));
    let rows: Vec<(String, u64)> = rows.collect();
    let age = number(&task["as_of_ms"]) - number(&message["accepted_ms"]);
    (rows.iter().map(|(_, ms)| ms).sum(), age, rows)
}

#[test]
fn the_ledger_of_a_message_sums_to_its_age_through_everything() {
    let is_delayed = AtomicBool::new(false);
    let next_hop = NextHop::start(Behaviour {
        on_rcpt: Box::new(move |to, _| {
            let is_first = to == "one@a.test" && !is_delayed.swap(true, Ordering::SeqCst);
            is_first.then(|| "451 4.3.0 later".to_owned())
        }),
        ..Behaviour::default()
    });
    let mut server = Server::start(next_hop.address, "[queue]\nretry_wait_min = \"10m\"\n");
    let mut client = server.greeted();
    let reply = client.message("s@from.test", &["one@a.test", "two@b.test"], b"x: y\r\n\r\n");
    let id = reply.rsplit(' ').next().expect("an id").to_owned();
    let check = |server: &Server, expected: &[&str]| {
        let shown = ask(server, &["explain", &id]);
        let (sum, age, rows) = ledger(&shown[0], 0);
        assert_eq!(sum, age, "{shown:?}");
        for cause in expected {
            assert!(rows.iter().any(|(row, _)| row == cause), "{cause}: {rows:?}");
        }
        shown
    };
    wait_until("it was tried", || state_of(&server, &id) == "delayed");
    let shown = check(&server, &["back-off"]);
    assert_eq!(shown[0]["tasks"][0]["recipients"][0]["reply"], "451 4.3.0 later");
    assert_eq!(shown[0]["tasks"][0]["attempts"], 1);
    assert_eq!(shown[1]["domain"], "a.test");
    assert_eq!(shown[1]["route"], "smarthost");
    assert_eq!(shown[1]["next_hop"], format!("smtp://{}", next_hop.address));

    assert_eq!(steer(&server, &["hold", "--id", &id]), (1, 1));
    check(&server, &["back-off"]);
    server.kill();
    server.start_again();
    wait_until("time has passed", || {
        let shown = ask(&server, &["explain", &id]);
        ledger(&shown[0], 0).2.iter().any(|(cause, ms)| cause == "held" && *ms > 0)
    });
    check(&server, &["back-off", "held"]);
    ask(&server, &["queue", "suspend", "--domain", "a.test"]);
    assert_eq!(steer(&server, &["release", "--id", &id]), (1, 1));
    wait_until("it waits by order", || {
        let shown = ask(&server, &["explain", &id]);
        let (sum, age, rows) = ledger(&shown[0], 0);
        assert_eq!(sum, age);
        assert_eq!(shown[1]["suspensions"][0]["mail"]["domain"], "a.test");
        rows.iter().any(|(cause, ms)| cause == "suspended-by-operator" && *ms > 0)
    });
    check(&server, &["back-off", "held", "suspended-by-operator"]);
    let text = server.run(&["explain", &id]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("since acceptance, of it") && text.contains("suspended "), "{text}");
    ask(&server, &["queue", "resume", "--all"]);
    next_hop.wait_for(2);
}

#[test]
fn a_domain_is_explained_with_a_server_and_without() {
    let next_hop = free_address();
    let extra = "[[route]]\ndomain = \"*.a.test\"\nnext_hop = \"lmtp://127.0.0.1:24\"\n";
    let mut server = Server::start(next_hop, extra);
    ask(&server, &["queue", "suspend", "--all"]);
    let way = ask(&server, &["explain", "X.a.test"]);
    assert_eq!(way[0]["route"], "[[route]] *.a.test");
    assert_eq!(way[0]["next_hop"], "lmtp://127.0.0.1:24");
    assert_eq!(way[0]["suspensions"][0]["number"], 1);
    assert!(server.stop().success());
    let alone = ask(&server, &["explain", "x.a.test"]);
    assert_eq!(alone[0]["next_hop"], "lmtp://127.0.0.1:24");
    let output = server.run(&["explain", "x.a.test"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("from the configuration alone: no server answers at "), "{text}");
    assert_eq!(server.run(&["explain", "0.0.1"]).status.code(), Some(69));
}

#[test]
fn what_is_queued_is_counted_by_age() {
    let server = Server::start(free_address(), TENANTS);
    let mut client = server.greeted();
    for (to, tenant) in [("1@a.test", "acme"), ("2@a.test", "acme"), ("3@b.test", "")] {
        send(&mut client, to, tenant);
    }
    let top = |by: &str| {
        let rows = ask(&server, &["queue", "top", "--by", by]);
        let rows = rows.iter().map(|row| {
            assert_eq!(row["ages"]["<1m"], row["total"]);
            (row[by].as_str().expect("a name").to_owned(), row["total"].as_u64().expect("a count"))
        });
        rows.collect::<Vec<_>>()
    };
    assert_eq!(top("domain"), [("a.test".to_owned(), 2), ("b.test".to_owned(), 1)]);
    assert_eq!(top("tenant"), [("acme".to_owned(), 2), (String::new(), 1)]);
    assert_eq!(top("site").len(), 1);
    let stats = ask(&server, &["queue", "stats"]);
    let by_state = stats[0]["ages"].as_object().expect("states");
    let young = by_state.values().map(|row| row["<1m"].as_u64().expect("a count"));
    assert_eq!(young.sum::<u64>(), 3);
    let text = String::from_utf8(server.run(&["queue", "top"]).stdout).expect("UTF-8");
    assert!(text.starts_with("DOMAIN ") && text.contains("\na.test "), "{text}");
}

#[test]
fn a_quiet_bounce_is_reported_to_nobody() {
    let address = free_address();
    let server = Server::start(address, "[queue]\nretry_wait_min = \"10m\"\n");
    let mut client = server.greeted();
    let (quiet, loud) = (send(&mut client, "1@a.test", ""), send(&mut client, "2@b.test", ""));
    wait_until("both wait", || steer(&server, &["retry", "--all", "--dry-run"]).0 == 2);
    assert_eq!(steer(&server, &["bounce", "--quiet", "--id", &quiet]), (1, 1));
    let queued = || ask(&server, &["queue", "stats"])[0]["all"]["messages"].clone();
    assert_eq!(queued(), 1, "no report");
    assert_eq!(steer(&server, &["bounce", "--id", &loud]), (1, 1));
    wait_until("there is a report", || queued() == 1);
    let next_hop = NextHop::start_on(address, Behaviour::default());
    wait_until("it has gone", || {
        steer(&server, &["retry", "--all"]);
        !next_hop.got().is_empty()
    });
    assert_eq!(next_hop.got().len(), 1);
    assert_eq!((next_hop.got()[0].from.as_str(), next_hop.got()[0].to.len()), ("", 1));
}

#[test]
fn mail_is_steered_by_its_reverse_path_and_its_age() {
    let mut server = Server::start(free_address(), "[queue]\nretry_wait_min = \"10m\"\n");
    let mut client = server.greeted();
    let content = b"x: y\r\n\r\n";
    for (from, to) in [
        ("news@a.test", ["1@x.test", "2@y.test"]),
        ("other@a.test", ["3@x.test", "4@y.test"]),
        ("x@b.a.test", ["5@x.test", "6@y.test"]),
        ("", ["7@x.test", "8@y.test"]),
    ] {
        assert!(client.message(from, &to, content).starts_with("250"));
    }
    wait_until("all wait", || steer(&server, &["retry", "--all", "--dry-run"]).0 == 8);
    // Envelopes are read back where they are not in memory.
    server.kill();
    server.start_again();
    let count =
        |arguments: &[&str]| steer(&server, &[&["hold", "--dry-run"], arguments].concat()).0;
    wait_until("none is under way", || count(&["--all"]) == 8);
    assert_eq!(count(&["--reverse-path", "News@A.test"]), 2);
    assert_eq!(count(&["--sender", "<news@a.test>", "--domain", "x.test"]), 1);
    assert_eq!(count(&["--reverse-path", "*@a.test"]), 4);
    assert_eq!(count(&["--reverse-path", "*a.test"]), 6);
    assert_eq!(count(&["--reverse-path", "<>"]), 2);
    assert_eq!(count(&["--older-than", "1h"]), 0);
    assert_eq!(count(&["--younger-than", "1h", "--class", "bulk"]), 8);
    let bounce = ["bounce", "--quiet", "--reverse-path", "*@a.test", "--younger-than", "1d"];
    assert_eq!(steer(&server, &bounce), (4, 4));
    assert_eq!(count(&["--all"]), 4);
    wait_until("it is in the log", || {
        server.log().contains("mail=\"reverse-path=*@a.test younger-than=86400s\"")
    });
    let output = server.run(&["queue", "hold", "--reverse-path", "*@*"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("reverse-path: found"), "{error}");
    assert_eq!(server.run(&["queue", "hold"]).status.code(), Some(64), "nothing is said");
}

#[test]
fn the_class_that_an_operator_wants_is_that_of_the_outcome() {
    let address = free_address();
    let server = Server::start(address, "[queue]\nretry_wait_min = \"10m\"\n");
    let id = send(&mut server.greeted(), "one@a.test", "");
    wait_until("it waits", || state_of(&server, &id) == "delayed");
    assert_eq!(steer(&server, &["class", "transactional", "--id", &id]), (1, 1));
    let next_hop = NextHop::start_on(address, Behaviour::default());
    wait_until("it has gone", || {
        steer(&server, &["retry", "--all"]);
        !next_hop.got().is_empty()
    });
    wait_until("it is in the log", || {
        let log = server.log();
        let relayed = log.lines().find(|line| line.contains("outcome=relayed"));
        relayed.is_some_and(|line| line.contains(" mail_class=transactional "))
    });
}

#[test]
fn suspended_mail_is_not_tried_at_a_start() {
    let mut server = Server::start(free_address(), "[shards]\ncount = 1\n");
    ask(&server, &["queue", "suspend", "--all"]);
    let id = send(&mut server.greeted(), "one@a.test", "");
    server.kill();
    server.start_again();
    let shown = ask(&server, &["queue", "show", &id]);
    let task = &shown[0]["tasks"][0];
    assert_eq!((&task["state"], &task["attempts"]), (&"ready".into(), &0.into()), "{shown:?}");
    assert_eq!(server.metric("ringpost_delivery_attempts_total"), 0.0);
}

#[test]
fn content_that_cannot_be_read_stays_held_over_restarts() {
    let next_hop = NextHop::start(Behaviour::default());
    let mut server = Server::start(next_hop.address, "[shards]\ncount = 1\n");
    ask(&server, &["queue", "suspend", "--domain", "a.test"]);
    let mut client = server.greeted();
    let content = b"x: y\r\n\r\nfind me\r\n";
    let reply = client.message("s@from.test", &["one@a.test"], content);
    let id = reply.rsplit(' ').next().expect("an id").to_owned();
    // Behind so much of the log a stop writes a checkpoint: the next start does not read it all.
    let large = [b"x: y\r\n\r\n", &*b"0123456789abcde\r\n".repeat(15_000)].concat();
    for _ in 0..70 {
        assert!(client.message("s@from.test", &["two@b.test"], &large).starts_with("250"));
    }
    next_hop.wait_for(70);
    assert!(server.stop().success());
    let mut places = 0;
    let shard = server.directory.path().join("data/shard-00");
    for entry in std::fs::read_dir(shard).expect("a directory") {
        let path = entry.expect("an entry").path();
        let bytes = std::fs::read(&path).expect("a file");
        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("a file");
        for place in memchr::memmem::find_iter(&bytes, b"find me") {
            file.write_all_at(b"F", place as u64).expect("written");
            places += 1;
        }
    }
    assert!(places > 0);
    server.start_again();
    ask(&server, &["queue", "resume", "--all"]);
    wait_until("it is held", || state_of(&server, &id) == "held");
    let shown = ask(&server, &["explain", &id]);
    let reply = shown[0]["tasks"][0]["recipients"][0]["reply"].as_str().expect("a reply");
    assert!(reply.starts_with("Cannot be read back: "), "{reply}");
    let (sum, age, _) = ledger(&shown[0], 0);
    assert_eq!(sum, age);
    // An order ends when all that was settled before is durable.
    assert_eq!(steer(&server, &["hold", "--all"]), (0, 0));
    server.kill();
    server.start_again();
    assert_eq!(state_of(&server, &id), "held");
    send(&mut server.greeted(), "two@b.test", "");
    next_hop.wait_for(71);
    assert_eq!(server.metric("ringpost_queue_held_total"), 0.0, "it is not tried again");
    assert_eq!(steer(&server, &["release", "--id", &id]), (1, 1));
    wait_until("it is held again", || server.metric("ringpost_queue_held_total") == 1.0);
}
