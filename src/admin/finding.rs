//! What a command found out about a thing, whether that is well, and what to do about it.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde::Serialize;

use super::exit::{Exit, Failure};

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub verdict: Verdict,
    pub subject: &'static str,
    /// What was found.
    pub found: String,
    /// What to do about it; empty when there is nothing to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub advice: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// It runs, with a risk or below its speed.
    Warn,
    /// It does not run.
    Fail,
}

impl Finding {
    pub fn ok(subject: &'static str, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, subject, found: found.into(), advice: String::new() }
    }

    pub fn warn(
        subject: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { verdict: Verdict::Warn, subject, found: found.into(), advice: advice.into() }
    }

    pub fn fail(
        subject: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { verdict: Verdict::Fail, subject, found: found.into(), advice: advice.into() }
    }
}

/// For whom a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Text,
    /// A list of objects.
    Json,
}

/// Prints the findings; fails with exit 1 when one of them is a `Fail`.
pub fn report(findings: &[Finding], form: Form) -> Result<(), Failure> {
    let text = match form {
        Form::Json => {
            let mut text =
                serde_json::to_string_pretty(findings).expect("strings have a JSON form");
            text.push('\n');
            text
        }
        Form::Text => table(findings),
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
