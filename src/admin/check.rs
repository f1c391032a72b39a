//! `ringpost check`: the effective configuration, or what is wrong with it.

use std::io::{self, Write};

use super::Source;
use super::exit::{Exit, Failure};

pub fn check(source: &Source) -> Result<(), Failure> {
    let config = source.load().map_err(|failure| Failure { exit: Exit::Found, ..failure })?;
    for warning in config.warnings() {
        eprintln!("ringpost: warning: {warning}");
    }
    io::stdout()
        .write_all(config.explain().as_bytes())
        .map_err(|error| Failure::new(Exit::InputOutput, error))
}
