//! From directories to the partitions of a shard.

use std::fmt;
use std::io;
use std::path::Path;

use super::recovery::Recovered;
use super::store::{StartError, Store};
use crate::config::Config;
use crate::journal::{Journal, JournalConfig, OpenError, Owner, Recovery};
use crate::limits::PARTITIONS_MAX;
use crate::mail::account::Account;

/// What was found in a partition.
pub struct OpenedPartition {
    pub number: u16,
    pub accounts: Vec<Account>,
    pub message_count: u64,
    /// Messages whose octets are no longer on disk whole.
    pub lost_count: usize,
    pub malformed_count: usize,
    /// What recovery mended, a line each.
    pub mends: Vec<String>,
    pub recovery: Recovery,
}

/// Why a partition was not opened. Nothing was changed.
#[derive(Debug)]
pub enum PartitionError {
    Journal(OpenError),
    /// No checkpoint is whole: mailboxes may be missing.
    Degraded,
}

impl fmt::Display for PartitionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PartitionError::Journal(error) => error.fmt(f),
            PartitionError::Degraded => f.write_str(
                "both checkpoints are unreadable, so mailboxes may be missing; bring the \
                 directory back from a copy",
            ),
        }
    }
}

/// How many partitions there are in `config.data_dir`: as many as there were first. Where there are
/// none and a domain is local, `first_count` are begun; without a domain that is none.
///
/// Blocks.
pub fn count_partitions(config: &Config, first_count: usize) -> io::Result<usize> {
    let count = highest_partition(&config.data_dir)?.map_or(0, |highest| usize::from(highest) + 1);
    if count > 0 || config.mailboxes.domains.is_empty() {
        return Ok(count);
    }
    let first_count = first_count.min(PARTITIONS_MAX);
    for number in 0..first_count {
        // All at once, so that no later start takes some for all.
        let owner = Owner::Partition(number as u16);
        std::fs::create_dir_all(owner.directory(&config.data_dir).0)?;
    }
    Ok(first_count)
}

fn highest_partition(data_dir: &Path) -> io::Result<Option<u16>> {
    let entries = match std::fs::read_dir(data_dir.join("mail")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut highest = None;
    for entry in entries {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix('p')?.parse::<u16>().ok());
        let is_one = |number: &u16| {
            let directory = Owner::Partition(*number).directory(data_dir).0;
            directory.file_name() == Some(&name) && usize::from(*number) < PARTITIONS_MAX
        };
        highest = highest.max(number.filter(is_one));
    }
    Ok(highest)
}

/// Opens a partition and starts its tasks on the calling executor. Blocks, as `Journal::open` does.
pub fn open_partition(
    config: &Config,
    number: u16,
) -> Result<(Store, OpenedPartition), PartitionError> {
    let journal_config = JournalConfig {
        bytes_max: config.mailboxes.bytes_max,
        ..JournalConfig::of(config, Owner::Partition(number))
    };
    let mut recovered = Recovered::default();
    let opened = Journal::open(&journal_config, &mut recovered);
    let (journal, recovery) = opened.map_err(PartitionError::Journal)?;
    let malformed_count = recovered.malformed().len();
    let undelete = config.mailboxes.undelete;
    let store = Store::start(journal, recovered, &recovery, undelete);
    let store = store.map_err(|StartError::Degraded| PartitionError::Degraded)?;
    // They are only derived: without a thread for them they are made when asked for.
    let _ = store
        .keep_summaries(&Owner::Partition(number).directory(&config.data_dir).0.join("summaries"));
    let opened = OpenedPartition {
        number,
        accounts: store.accounts(number),
        message_count: store.message_count(),
        lost_count: store.lost_count(),
        malformed_count,
        mends: store.mended(),
        recovery,
    };
    Ok((store, opened))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_partitions_as_there_were_first() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = Config { data_dir: directory.path().to_owned(), ..Config::default() };
        assert_eq!(count_partitions(&config, 3).expect("counted"), 0);
        assert!(!directory.path().join("mail").exists(), "nothing is made for nobody");
        config.mailboxes.domains.push("a.test".to_owned());
        assert_eq!(count_partitions(&config, 3).expect("made"), 3);
        assert_eq!(count_partitions(&config, 5).expect("counted"), 3);
        config.mailboxes.domains.clear();
        assert_eq!(count_partitions(&config, 1).expect("counted"), 3, "they stay");
        for name in ["p1", "p300", "p007", "q09", "p"] {
            std::fs::create_dir(directory.path().join("mail").join(name)).expect("made");
        }
        assert_eq!(count_partitions(&config, 1).expect("counted"), 3);
        std::fs::create_dir(directory.path().join("mail/p11")).expect("made");
        assert_eq!(count_partitions(&config, 1).expect("counted"), 12);
    }
}
