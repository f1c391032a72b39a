//! `ringpost doctor`: whether this machine can run the server, and how well.

mod disk;
mod machine;

use std::path::PathBuf;

use super::Source;
use super::exit::Failure;
use super::finding::{self, Finding, Form};
use clap::Args;

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

/// Fails with exit 1 when something keeps the server from running.
pub fn run(options: &Options) -> Result<(), Failure> {
    let config = options.source.load()?;
    let data_dir = options.data_dir.as_ref().unwrap_or(&config.data_dir);
    let mut findings = machine::look(&config);
    findings.extend(disk::look(data_dir, &config));
    finding::report(&findings, if options.json { Form::Json } else { Form::Text })
}
