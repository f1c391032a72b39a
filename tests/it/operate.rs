//! Starting, reloading, stopping, and what a wrong configuration is told.

use std::process::{Command, Output};

use crate::harness::{Behaviour, NextHop, Server, free_address, wait_until};
use crate::steer::steer;

fn ringpost(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringpost")).args(arguments).output().expect("ringpost runs")
}

#[test]
fn a_wrong_configuration_is_refused_by_file_line_and_key() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("wrong.toml");
    std::fs::write(&path, "hostname = \"mx.test\"\n[queue]\nlifetime = 5\n").expect("written");
    let path = path.to_str().expect("a path");
    for (command, code) in [("check", 1), ("serve", 78)] {
        let output = ringpost(&[command, "--config", path]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{command}: {text}");
        assert!(text.contains(&format!("{path}:3: queue.lifetime: found 5; expected")), "{text}");
    }
    // So is a file of rules that it names.
    let rules = directory.path().join("rules.toml");
    std::fs::write(&rules, "[[rule]]\nclass = \"rate\"\nregex = \"(\"\n").expect("written");
    let rules = rules.to_str().expect("a path");
    let listener = "[[listener]]\naddress = \"127.0.0.1:2525\"";
    let text = format!("{listener}\n[delivery]\nrules = \"{rules}\"\n");
    std::fs::write(path, text).expect("written");
    for (command, code) in [("check", 1), ("serve", 78)] {
        let output = ringpost(&[command, "--config", path]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{command}: {text}");
        assert!(text.contains(&format!("{rules}:3: rule.regex: found \"(\"; expected")), "{text}");
    }
    let output = ringpost(&["check", "--config", "/nonexistent.toml"]);
    assert_ne!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent.toml"));
}

#[test]
fn the_effective_configuration_is_printed_and_accepted_again() {
    let output = ringpost(&["check"]);
    assert!(output.status.success());
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("effective.toml");
    std::fs::write(&path, &output.stdout).expect("written");
    let again = ringpost(&["check", "--config", path.to_str().expect("a path")]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(again.stdout, output.stdout);
}

#[test]
fn the_examples_of_tuning_are_valid() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tuning/pinning.toml");
    let output = ringpost(&["check", "--config", path]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let server = Server::start(free_address(), "");
    let text = std::fs::read_to_string(server.config_path()).expect("the configuration");
    let other = text
        .replace(&server.address.to_string(), &free_address().to_string())
        .replace(&server.metrics.to_string(), &free_address().to_string());
    let path = server.directory.path().join("second.toml");
    std::fs::write(&path, other).expect("written");
    let output = ringpost(&["serve", "--config", path.to_str().expect("a path")]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(text.contains("another process has this journal open"), "{text}");
}

#[test]
fn a_reload_changes_what_follows_and_drops_no_session() {
    let next_hop = NextHop::start(Behaviour::default());
    let server = Server::start(next_hop.address, "");
    let mut old = server.client();
    old.expect("EHLO client.test", "250");
    old.expect("MAIL FROM:<a@from.test>", "250");
    server.write_config(next_hop.address, "[reception]\nrelay_networks = []\n");
    server.signal("HUP");
    wait_until("new sessions follow the new configuration", || {
        let mut new = server.client();
        new.expect("EHLO client.test", "250");
        new.expect("MAIL FROM:<a@from.test>", "250");
        new.say("RCPT TO:<b@to.test>").starts_with("550 5.7.1")
    });
    old.expect("RCPT TO:<b@to.test>", "250");
    // A wrong one changes nothing, and says so.
    server.write_config(next_hop.address, "nonsense = 1\n");
    server.signal("HUP");
    wait_until("the error is told", || server.stderr().contains("nonsense: unknown key"));
    old.expect("DATA", "354");
    old.send(b"x: y\r\n\r\n.\r\n");
    assert!(old.reply().starts_with("250"));
    next_hop.wait_for(1);
}

#[test]
fn a_stop_tells_idle_clients_and_waits_for_open_transactions() {
    let next_hop = NextHop::start(Behaviour::default());
    let mut server = Server::start(next_hop.address, "[shards]\ncount = 2\ndrain = \"10s\"\n");
    let mut idle = server.client();
    let mut busy = server.client();
    busy.expect("EHLO client.test", "250");
    busy.expect("MAIL FROM:<a@from.test>", "250");
    busy.expect("RCPT TO:<b@to.test>", "250");
    busy.expect("DATA", "354");
    busy.send(b"x: y\r\n");
    server.signal("TERM");
    assert!(idle.reply().starts_with("421 4.3.2 "));
    busy.send(b"\r\n.\r\n");
    assert!(busy.reply().starts_with("250"));
    drop((idle, busy));
    assert!(server.wait_for_end().success(), "{}", server.stderr());
}

#[test]
fn the_queue_can_be_looked_at() {
    let server = Server::start(free_address(), "");
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    let reply = client.message("a@from.test", &["b@to.test"], b"x: y\r\n\r\n");
    let id = reply.rsplit(' ').next().expect("an id").to_owned();
    wait_until("an attempt has failed", || server.log().contains("outcome=delayed"));
    let config = server.config_path();
    let config = config.to_str().expect("a path");
    let list = ringpost(&["queue", "list", "--config", config]);
    let text = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(text.contains(&id) && text.contains("a@from.test"), "{text}");
    let show = ringpost(&["queue", "show", &id, "--config", config]);
    let text = String::from_utf8_lossy(&show.stdout).into_owned();
    assert!(text.contains("b@to.test") && text.contains("Cannot connect"), "{text}");
    let stats = ringpost(&["queue", "stats", "--json", "--config", config]);
    let json: serde_json::Value = serde_json::from_slice(&stats.stdout).expect("JSON");
    assert!(json.to_string().contains("\"messages\":1"), "{json}");
    let missing = ringpost(&["queue", "show", "0.0.ZZZ", "--config", config]);
    assert!(!missing.status.success());
}

#[test]
fn queued_messages_are_held_released_tried_and_given_up_by_order() {
    let next_hop_address = free_address();
    let mut server = Server::start(next_hop_address, "[queue]\nretry_wait_min = \"10m\"\n");
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    let mut send = |to: &str| {
        let reply = client.message("s@from.test", &[to], b"x: y\r\n\r\n");
        reply.rsplit(' ').next().expect("an id").to_owned()
    };
    let ids: Vec<String> = (0..3).map(|number| send(&format!("{number}@a.test"))).collect();
    (0..2).for_each(|number| drop(send(&format!("{number}@x.b.test"))));
    let given_up = send("0@c.test");
    // Sites that cannot be reached put everything back with a wait.
    wait_until("all wait", || steer(&server, &["retry", "--all", "--dry-run"]).0 == 6);

    assert_eq!(steer(&server, &["hold", "--domain", "A.test", "--dry-run"]), (3, 0));
    assert_eq!(steer(&server, &["hold", "--domain", "A.test"]), (3, 3));
    assert_eq!(steer(&server, &["hold", "--domain", "a.test"]), (0, 0), "held already");
    server.kill();
    server.start_again();
    assert_eq!(steer(&server, &["release", "--all", "--dry-run"]), (3, 0), "held over a restart");
    wait_until("the others wait", || steer(&server, &["retry", "--all", "--dry-run"]).0 == 3);

    let next_hop = NextHop::start_on(next_hop_address, Behaviour::default());
    assert_eq!(steer(&server, &["bounce", "--id", &given_up]), (1, 1));
    assert_eq!(steer(&server, &["retry", "--domain", "*.b.test"]), (2, 2));
    let to = |count: usize| {
        let mut to: Vec<String> =
            next_hop.wait_for(count).into_iter().map(|it| it.to[0].clone()).collect();
        to.sort();
        to
    };
    assert_eq!(to(2), ["0@x.b.test", "1@x.b.test"]);
    // The report waits for the site that could not be reached, as everything did.
    steer(&server, &["retry", "--all"]);
    assert_eq!(to(3), ["0@x.b.test", "1@x.b.test", "s@from.test"]);
    let report = next_hop.got().into_iter().find(|it| it.from.is_empty()).expect("a report");
    let report = String::from_utf8_lossy(&report.content).into_owned();
    assert!(report.contains("Final-Recipient: rfc822;0@c.test"), "{report}");
    assert!(report.contains("Given up by the operator"), "{report}");

    assert_eq!(steer(&server, &["bounce", "--id", &ids[0]]), (1, 1), "held mail as well");
    assert_eq!(steer(&server, &["release", "--id", &ids[1]]), (1, 1));
    assert_eq!(to(5)[..1], ["0@x.b.test".to_owned()]);
    assert_eq!(steer(&server, &["release", "--all"]), (1, 1));
    let all = to(6);
    assert_eq!(all[..3], ["0@x.b.test", "1@a.test", "1@x.b.test"]);
    assert_eq!(all[3..], ["2@a.test", "s@from.test", "s@from.test"]);
    wait_until("the queue is empty", || server.metric("ringpost_queue_messages") == 0.0);
    assert!(server.stop().success(), "{}", server.stderr());
}

#[test]
fn an_order_without_a_selection_is_refused() {
    for order in ["retry", "hold", "release", "bounce"] {
        let output = ringpost(&["queue", order]);
        assert_eq!(output.status.code(), Some(64), "{order}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("--id") && text.contains("--all"), "{text}");
    }
}
