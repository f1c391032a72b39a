//! Lost and duplicated messages, from what the source was promised and what the sink received.
//!
//! Pure, but for the subcommand, which reads two files.

use std::path::PathBuf;

use serde::Serialize;

use crate::failure::Failure;
use crate::ids;

/// Compares the record of a source with the record of a sink: what was lost, what came twice.
///
/// Fails (exit code 70) when anything was lost.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Record of the source (`source --record`).
    pub accepted: PathBuf,
    /// Record of the sink (`sink --record`); without its --run it must have seen one run only.
    pub received: PathBuf,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Runs the subcommand.
pub fn run(options: &Options) -> Result<(), Failure> {
    let read = |path: &PathBuf| {
        ids::read(path)
            .map_err(|error| Failure::no_input(format!("cannot read {}: {error}", path.display())))
    };
    let (_, accepted) = read(&options.accepted)?;
    let (_, received) = read(&options.received)?;
    let audit = compare(accepted, received);
    if options.json {
        println!("{}", serde_json::to_string(&audit).expect("an audit is plain values"));
    } else {
        println!("accepted   {:>12}", audit.accepted);
        println!("relayed    {:>12}", audit.relayed);
        println!("lost       {:>12}", audit.lost);
        println!("duplicated {:>12}", audit.duplicated);
        println!("in doubt   {:>12}", audit.in_doubt);
    }
    if audit.lost > 0 {
        let (lost, examples) = (audit.lost, &audit.lost_examples);
        return Err(Failure::broken_promise(format!("{lost} lost, for example {examples:?}")));
    }
    Ok(())
}

/// One recipient of one message of a run: sequence number and recipient index in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId(pub u64);

impl DeliveryId {
    /// `sequence` below 2^48; `recipient_index` counts the recipients of the message.
    pub fn new(sequence: u64, recipient_index: u16) -> Self {
        assert!(sequence < SEQUENCE_END);
        Self(sequence << 16 | u64::from(recipient_index))
    }

    pub fn sequence(self) -> u64 {
        self.0 >> 16
    }
}

/// What became of the recipients of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// Recipients for which the server took responsibility.
    pub accepted: u64,
    /// Of these, the ones the sink received at least once.
    pub relayed: u64,
    /// Accepted and never received.
    pub lost: u64,
    /// Receptions beyond the first, of any recipient.
    pub duplicated: u64,
    /// Received although the source never saw the 250: the reply was lost on its way.
    pub in_doubt: u64,
    /// A few of the lost, for looking into.
    pub lost_examples: Vec<u64>,
}

/// Compares both sides; either may be in any order.
pub fn compare(mut accepted: Vec<DeliveryId>, mut received: Vec<DeliveryId>) -> Audit {
    accepted.sort_unstable();
    accepted.dedup();
    received.sort_unstable();
    let received_count = received.len() as u64;
    received.dedup();
    let mut audit = Audit {
        accepted: accepted.len() as u64,
        duplicated: received_count - received.len() as u64,
        ..Audit::default()
    };
    let mut rest = received.iter().peekable();
    for id in &accepted {
        while rest.next_if(|other| *other < id).is_some() {
            audit.in_doubt += 1;
        }
        if rest.next_if_eq(&id).is_some() {
            audit.relayed += 1;
        } else {
            audit.lost += 1;
            if audit.lost_examples.len() < LOST_EXAMPLES_MAX {
                audit.lost_examples.push(id.sequence());
            }
        }
    }
    audit.in_doubt += rest.count() as u64;
    assert_eq!(audit.accepted, audit.relayed + audit.lost);
    audit
}

/// Sequence numbers are below this.
pub const SEQUENCE_END: u64 = 1 << 48;
const LOST_EXAMPLES_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(sequences: &[u64]) -> Vec<DeliveryId> {
        sequences.iter().map(|sequence| DeliveryId::new(*sequence, 0)).collect()
    }

    fn check(accepted: &[u64], received: &[u64], expected: (u64, u64, u64, u64)) {
        let audit = compare(ids(accepted), ids(received));
        let found = (audit.relayed, audit.lost, audit.duplicated, audit.in_doubt);
        assert_eq!(found, expected, "{accepted:?} {received:?}");
    }

    #[test]
    fn every_accepted_recipient_is_relayed_or_lost() {
        check(&[], &[], (0, 0, 0, 0));
        check(&[1, 2, 3], &[3, 1, 2], (3, 0, 0, 0));
        check(&[1, 2, 3], &[2], (1, 2, 0, 0));
        check(&[1, 2, 3], &[2, 2, 2], (1, 2, 2, 0));
    }

    #[test]
    fn a_message_without_a_reply_is_in_doubt_and_never_lost() {
        check(&[2], &[1, 2, 3, 3], (1, 0, 1, 2));
        check(&[], &[7], (0, 0, 0, 1));
    }

    #[test]
    fn recipients_of_one_message_are_apart() {
        let accepted = vec![DeliveryId::new(5, 0), DeliveryId::new(5, 1)];
        let received = vec![DeliveryId::new(5, 1), DeliveryId::new(5, 1)];
        let audit = compare(accepted, received);
        assert_eq!((audit.lost, audit.duplicated), (1, 1));
        assert_eq!(audit.lost_examples, [5]);
    }
}
