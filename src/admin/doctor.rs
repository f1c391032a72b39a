//! `ringpost doctor`: whether this machine can run the server, and how well.

mod disk;
mod machine;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::Source;
use super::exit::{Exit, Failure};

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    source: Source,
    /// Looks at the disk of this directory instead of the configured data_dir.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Prints a JSON list.
    #[arg(long)]
    json: bool,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    verdict: Verdict,
    subject: &'static str,
    /// What was found.
    found: String,
    /// What to do about it; empty when there is nothing to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    advice: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// It runs, with a risk or below its speed.
    Warn,
    /// It does not run.
    Fail,
}

impl Finding {
    fn ok(subject: &'static str, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, subject, found: found.into(), advice: String::new() }
    }

    fn warn(subject: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, subject, found: found.into(), advice: advice.into() }
    }

    fn fail(subject: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, subject, found: found.into(), advice: advice.into() }
    }
}

/// Fails with exit 1 when something keeps the server from running.
pub fn run(options: &Options) -> Result<(), Failure> {
    let config = options.source.load()?;
    let data_dir = options.data_dir.as_ref().unwrap_or(&config.data_dir);
    let mut findings = machine::look(&config);
    findings.extend(disk::look(data_dir, &config));
    let text = if options.json {
        let mut text = serde_json::to_string_pretty(&findings).expect("strings have a JSON form");
        text.push('\n');
        text
    } else {
        table(&findings)
    };
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::new(Exit::InputOutput, error))?;
    let failed = findings.iter().filter(|it| it.verdict == Verdict::Fail).count();
    match failed {
        0 => Ok(()),
        _ => {
            Err(Failure::new(Exit::Found, format!("{failed} of {} checks failed", findings.len())))
        }
    }
}

fn table(findings: &[Finding]) -> String {
    let mut text = String::new();
    for it in findings {
        let verdict = match it.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        // Writing into memory does not fail.
        let _ = writeln!(text, "{verdict:<5} {:<14} {}", it.subject, it.found);
        if !it.advice.is_empty() {
            let _ = writeln!(text, "{:<20} -> {}", "", it.advice);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_stands_under_what_was_found() {
        let findings = [Finding::ok("cores", "2"), Finding::fail("io_uring", "none", "a kernel")];
        assert_eq!(
            table(&findings),
            "ok    cores          2\nFAIL  io_uring       none\n                     -> a kernel\n"
        );
        let json = serde_json::to_value(&findings).expect("JSON");
        assert_eq!(json[0]["verdict"], "ok");
        assert_eq!(json[1]["advice"], "a kernel");
    }
}
