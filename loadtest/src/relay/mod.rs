//! `ringpost-loadtest relay`: a whole run with source, server and sink, measured and audited.
//!
//! **Owns** the processes of a run and what is said of them.
//! **Uses** `source` and `sink` as processes, `audit`, `ids`.
//! **Holds** that only processes started here are ended, by their ids, and that a round in which
//! a message was lost cannot end with success.
//! **Start reading** at `run`, then `round::run`.

pub mod accounting;
pub mod child;
mod figures;
pub mod files;
mod options;
mod round;
pub mod server;

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::stop;
use figures::Figures;
pub use options::Options;
use round::{Outcome, Side};

/// Runs the subcommand.
pub fn run(options: Options) -> Result<(), Failure> {
    if options.connections == 0 || options.round_count() == 0 {
        return Err(Failure::usage("--connections and --rounds are at least 1"));
    }
    if options.kill > 0 && options.peer.is_some() {
        return Err(Failure::usage("--kill is for ringpost alone: leave --peer out"));
    }
    stop::catch_signals();
    let made_work_dir = !options.work_dir.exists();
    let result = all_rounds(&options);
    if made_work_dir && !options.keep {
        // Empty unless a round left something to look into.
        let _ = std::fs::remove_dir(&options.work_dir);
    }
    let (ours, peers) = result?;
    let verdict = Verdict::of(&options, &ours, &peers);
    if options.json {
        println!("{}", to_json(&options, &ours, &peers, &verdict));
    } else {
        print_table(&options, &ours, &peers, &verdict);
    }
    let lost: u64 = ours.iter().map(|outcome| outcome.audit.lost).sum();
    if lost > 0 {
        let examples: Vec<u64> =
            ours.iter().flat_map(|outcome| outcome.audit.lost_examples.clone()).collect();
        return Err(Failure::broken_promise(format!(
            "{lost} accepted messages were lost, for example {examples:?}"
        )));
    }
    Ok(())
}

fn all_rounds(options: &Options) -> Result<(Vec<Outcome>, Vec<Outcome>), Failure> {
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    for round in 0..options.round_count() {
        let directory = |side: Side| {
            let name = format!("{}-{round}-{}", side.name(), std::process::id());
            options.work_dir.join(name)
        };
        let (first, second) = options.sides();
        ours.push(round::run(options, first, &directory(first))?);
        if let Some(second) = second {
            peers.push(round::run(options, second, &directory(second))?);
        }
    }
    Ok((ours, peers))
}

/// Whether the comparison may be quoted.
struct Verdict {
    invalid_because: Vec<String>,
}

impl Verdict {
    fn of(options: &Options, ours: &[Outcome], peers: &[Outcome]) -> Self {
        let mut invalid_because = Vec::new();
        for (round, peer) in peers.iter().enumerate() {
            let rate = peer.figures.accepted_per_s;
            if options.connections >= 20 && rate < PEER_ACCEPTED_PER_S_MIN {
                invalid_because.push(format!(
                    "round {round}: the peer accepted only {rate:.0}/s; something holds it up"
                ));
            }
            if peer.audit.lost > 0 {
                invalid_because.push(format!(
                    "round {round}: {} messages of the peer did not arrive; raise --settle",
                    peer.audit.lost
                ));
            }
        }
        for (round, our) in ours.iter().enumerate() {
            if our.audit.lost > 0 {
                invalid_because.push(format!("round {round}: {} lost", our.audit.lost));
            }
        }
        Self { invalid_because }
    }
}

fn figures_of(outcomes: &[Outcome]) -> Vec<Figures> {
    outcomes.iter().map(|outcome| outcome.figures.clone()).collect()
}

fn to_json(options: &Options, ours: &[Outcome], peers: &[Outcome], verdict: &Verdict) -> Value {
    let (our_figures, peer_figures) = (figures_of(ours), figures_of(peers));
    let mut object = Figures::over_rounds(&our_figures).to_json();
    let mut add = |name: &str, value: Value| {
        object.insert(name.to_owned(), value);
    };
    let (first, second) = options.sides();
    add("server", json!(first.name()));
    add("connections", json!(options.connections));
    add("size", json!(options.size));
    add("loop", json!(if options.rate.is_some() { "open" } else { "closed" }));
    add("spread", Value::Object(figures::spread(&our_figures)));
    let in_doubt: u64 = ours.iter().map(|outcome| outcome.audit.in_doubt).sum();
    add("in_doubt", json!(in_doubt));
    let kills: u64 = ours.iter().filter_map(|outcome| outcome.details["kills"].as_u64()).sum();
    add("kills", json!(kills));
    if let Some(second) = second {
        let comparison = figures::compare(&our_figures, &peer_figures);
        add("peer_name", json!(second.name()));
        add("peer", Value::Object(Figures::over_rounds(&peer_figures).to_json()));
        add("peer_spread", Value::Object(figures::spread(&peer_figures)));
        add("ratio", Value::Object(comparison.ratio));
        add("ratio_spread", Value::Object(comparison.ratio_spread));
    }
    add("valid", json!(verdict.invalid_because.is_empty()));
    add("invalid_because", json!(verdict.invalid_because));
    let method = json!({
        "cpu": ours.first().map(|outcome| outcome.cpu_method),
        "flushes": "flush requests of the disk under --work-dir, from sysfs",
        "memory": "sum of PSS over the processes of the server, largest sample",
        "durability": "as shipped: ringpost fdatasync before 250; Postfix fsync before 250",
    });
    add("method", method);
    let rounds: Vec<&Value> = ours.iter().chain(peers).map(|outcome| &outcome.details).collect();
    add("rounds", json!(rounds));
    Value::Object(object)
}

fn print_table(options: &Options, ours: &[Outcome], peers: &[Outcome], verdict: &Verdict) {
    let (our_figures, peer_figures) = (figures_of(ours), figures_of(peers));
    let (first, second) = options.sides();
    let peer = second.map(|side| (side.name(), &peer_figures[..]));
    println!(
        "{} connections, {} messages, {} rounds: medians; accepted, lost, duplicated: sums",
        options.connections,
        options.size,
        options.round_count()
    );
    println!("{}", figures::table(first.name(), &our_figures, peer));
    for outcome in ours.iter().chain(peers) {
        let details = &outcome.details;
        println!(
            "{:<9} audit: {} accepted, {} relayed, {} lost, {} duplicated, {} in doubt, {} kills; \
             CPU us a message: source {:.1}, sink {:.1}",
            details["server"].as_str().unwrap_or_default(),
            outcome.audit.accepted,
            outcome.audit.relayed,
            outcome.audit.lost,
            outcome.audit.duplicated,
            outcome.audit.in_doubt,
            details["kills"],
            details["source_cpu_us_per_message"].as_f64().unwrap_or(0.0),
            details["sink_cpu_us_per_message"].as_f64().unwrap_or(0.0),
        );
    }
    if let Some(outcome) = ours.first() {
        println!("CPU from {}; flushes from the disk's count", outcome.cpu_method);
    }
    for reason in &verdict.invalid_because {
        println!("INVALID: {reason}");
    }
}

/// A Postfix that accepts less at 20 connections is not the Postfix people run.
const PEER_ACCEPTED_PER_S_MIN: f64 = 300.0;

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::audit::Audit;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn outcome(accepted_per_s: f64, lost: u64) -> Outcome {
        let lost_figure = lost as f64;
        Outcome {
            figures: Figures { accepted_per_s, lost: lost_figure, ..Figures::default() },
            audit: Audit { accepted: 10, relayed: 10 - lost, lost, ..Audit::default() },
            cpu_method: "a test",
            details: json!({}),
        }
    }

    fn object(arguments: &[&str], ours: &[Outcome], peers: &[Outcome]) -> Value {
        let line = [&["relay"], arguments].concat();
        let options = Line::try_parse_from(line).expect("valid").options;
        to_json(&options, ours, peers, &Verdict::of(&options, ours, peers))
    }

    #[test]
    fn the_object_holds_both_servers_and_their_ratio_under_the_same_keys() {
        let (ours, peers) = ([outcome(9_000.0, 0)], [outcome(900.0, 0)]);
        let object = object(&["--peer", "postfix"], &ours, &peers);
        for key in ["accepted_per_s", "cpu_us_per_relayed", "p99_us", "rss_bytes", "lost"] {
            for part in [&object, &object["peer"], &object["ratio"], &object["ratio_spread"]] {
                assert!(part.get(key).is_some(), "{key}");
            }
        }
        assert_eq!(object["ratio"]["accepted_per_s"], json!(10));
        assert_eq!(object["valid"], json!(true));
    }

    #[test]
    fn a_peer_that_is_held_up_makes_the_run_invalid() {
        let (ours, peers) = ([outcome(9_000.0, 0)], [outcome(299.0, 0)]);
        let check = |connections, valid| {
            let arguments = ["--peer", "postfix", "--connections", connections];
            assert_eq!(object(&arguments, &ours, &peers)["valid"], json!(valid));
        };
        check("20", false);
        check("1", true);
    }

    #[test]
    fn a_loss_makes_the_run_invalid() {
        let object = object(&[], &[outcome(9_000.0, 1)], &[]);
        assert_eq!((&object["valid"], &object["lost"]), (&json!(false), &json!(1)));
        assert!(object.get("peer").is_none());
    }
}
