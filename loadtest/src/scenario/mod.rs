//! Scenarios: a server of their own, sinks that misbehave as told, and what must hold then.
//!
//! **Owns** `backlog`, `limits`, `mailbox`, `mixed`, `mx` and `tls`, and what they share.
//! **Uses** `sink` and `source` in this process, the server as a process, `audit`, `ids`.
//! **Holds** that a scenario in which something broke that must hold cannot end with success.
//! **Start reading** at `backlog::run`, then `stage::Stage`.

pub mod backlog;
mod config;
mod handshakes;
pub mod limits;
pub mod mailbox;
pub mod mixed;
pub mod mx;
mod server;
mod stage;
pub mod tls;
mod zone;

use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;

/// Prints what a scenario measured: one JSON object, or a line for each value.
fn print(report: &impl Serialize, json: bool) {
    let value = serde_json::to_value(report).expect("a report is plain values");
    if json {
        println!("{value}");
    } else {
        print_lines("", &value);
    }
}

fn print_lines(name: &str, value: &Value) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let name = if name.is_empty() { field.clone() } else { format!("{name}.{field}") };
                print_lines(&name, value);
            }
        }
        Value::Array(values) if values.iter().any(Value::is_object) => {
            for value in values {
                println!();
                print_lines(name, value);
            }
        }
        Value::Number(number) if number.is_f64() => {
            println!("{name:<36} {:>14.3}", number.as_f64().unwrap_or_default());
        }
        Value::Null => println!("{name:<36} {:>14}", "-"),
        Value::String(text) => println!("{name:<36} {text:>14}"),
        value => println!("{name:<36} {:>14}", value.to_string()),
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        count if count % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// Fails with everything that had to hold and did not.
fn judge(broken: &[String]) -> Result<(), Failure> {
    match broken {
        [] => Ok(()),
        broken => Err(Failure::broken_promise(broken.join("; "))),
    }
}
