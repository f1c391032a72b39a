//! The disk under the data directory: its file system, its room, the cost of a durable write.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Finding;
use crate::config::{Config, Durability};
use crate::runtime::disk::{self, FileSystem, FlushCost, Overwrites};
use crate::runtime::segment_file::Access;

pub fn look(data_dir: &Path, config: &Config) -> Vec<Finding> {
    let Some(directory) = existing_ancestor(data_dir) else {
        let found = format!("{}: no directory above it exists", data_dir.display());
        return vec![Finding::fail("disk", found, "correct data_dir")];
    };
    let mut findings = Vec::new();
    match disk::file_system(&directory) {
        Ok(found) => {
            findings.push(file_system(&directory, &found));
            findings.push(room(&found, config));
        }
        Err(error) => findings.push(Finding::warn(
            "file system",
            format!("{}: {error}", directory.display()),
            "",
        )),
    }
    match disk::measure_flush(&directory, FLUSHES, MEASURE_TIME_MAX) {
        Ok(cost) => findings.extend(flush_cost(&cost, config.journal.durability)),
        Err(error) => findings.push(Finding::fail(
            "flush cost",
            format!("{}: cannot write there: {error}", directory.display()),
            "make it writable for this user, or correct data_dir",
        )),
    }
    findings
}

/// The directory itself, or the nearest one above it that is there.
fn existing_ancestor(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.ancestors().find(|it| it.is_dir()).map(Path::to_owned)
}

fn file_system(directory: &Path, found: &FileSystem) -> Finding {
    const SUBJECT: &str = "file system";
    let shown = format!("{} at {}", found.name, directory.display());
    match found.overwrites {
        Overwrites::InPlace => Finding::ok(SUBJECT, shown),
        Overwrites::CopyOnWrite => Finding::warn(
            SUBJECT,
            format!("{shown}: overwriting allocates, so a commit can meet a full disk"),
            "put data_dir on ext4 or XFS",
        ),
        Overwrites::Volatile => Finding::warn(
            SUBJECT,
            format!("{shown}: in memory, mail is lost at a restart of the machine"),
            "put data_dir on ext4 or XFS; this is for tests only",
        ),
        Overwrites::Unknown => Finding::warn(
            SUBJECT,
            format!("{shown}: not known to overwrite in place or to flush honestly"),
            "put data_dir on a local ext4 or XFS",
        ),
    }
}

fn room(found: &FileSystem, config: &Config) -> Finding {
    const SUBJECT: &str = "free space";
    let journal = &config.journal;
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    // One small segment for a shard is written at the first start.
    let least = journal.min_free_bytes.saturating_add(journal.segment_bytes);
    if found.free_bytes < least {
        return Finding::fail(
            SUBJECT,
            format!(
                "{}, growth leaves {} free",
                mib(found.free_bytes),
                mib(journal.min_free_bytes)
            ),
            "make room, or lower journal.min_free_bytes: mail is answered 452 4.3.1 otherwise",
        );
    }
    if found.free_bytes - journal.min_free_bytes < journal.bytes_max {
        return Finding::warn(
            SUBJECT,
            format!(
                "{}: a shard's journal may grow to {}",
                mib(found.free_bytes),
                mib(journal.bytes_max)
            ),
            "lower journal.bytes_max to what is there for each shard, or use a larger disk",
        );
    }
    Finding::ok(SUBJECT, mib(found.free_bytes))
}

fn flush_cost(cost: &FlushCost, configured: Durability) -> Vec<Finding> {
    const SUBJECT: &str = "flush cost";
    let (Some(fdatasync), Some(dsync)) = (Spread::of(&cost.fdatasync), Spread::of(&cost.dsync))
    else {
        return vec![Finding::warn(SUBJECT, "nothing was measured", "run it on an idle disk")];
    };
    let found = format!(
        "4 KiB durable: fdatasync p50 {} p99 {}, dsync p50 {} p99 {} us ({} writes each)",
        fdatasync.p50,
        fdatasync.p99,
        dsync.p50,
        dsync.p99,
        cost.dsync.len(),
    );
    let mut findings = Vec::new();
    let best = recommend(&fdatasync, &dsync);
    let (name, other) = match best {
        Durability::Dsync => ("dsync", Durability::Fdatasync),
        _ => ("fdatasync", Durability::Dsync),
    };
    findings.push(if configured == other {
        Finding::warn(SUBJECT, found, format!("set journal.durability = \"{name}\""))
    } else {
        Finding::ok(SUBJECT, format!("{found}; durability \"{name}\" fits"))
    });
    if fdatasync.p50.min(dsync.p50) < HONEST_US_MIN {
        findings.push(Finding::warn(
            "flush honesty",
            "a flush takes less time than any medium needs",
            "make sure that the disk or hypervisor has no volatile cache, or one with a battery",
        ));
    }
    if cost.access == Access::Buffered {
        findings.push(Finding::warn(
            "direct I/O",
            "the file system refuses O_DIRECT",
            "put data_dir on ext4 or XFS: a failed flush cannot be told apart here",
        ));
    }
    findings
}

/// Microseconds.
struct Spread {
    p50: u128,
    p99: u128,
}

impl Spread {
    /// `sorted` ascending; `None` when it is empty.
    fn of(sorted: &[Duration]) -> Option<Self> {
        let at = |percent: usize| {
            sorted.get(sorted.len().checked_sub(1)? * percent / 100).map(Duration::as_micros)
        };
        Some(Self { p50: at(50)?, p99: at(99)? })
    }
}

/// One write at a time flatters dsync, and batches are what counts: it must win clearly.
fn recommend(fdatasync: &Spread, dsync: &Spread) -> Durability {
    let wins = dsync.p50 * 3 < fdatasync.p50 * 2 && dsync.p99 < fdatasync.p99;
    if wins { Durability::Dsync } else { Durability::Fdatasync }
}

const FLUSHES: usize = 200;
const MEASURE_TIME_MAX: Duration = Duration::from_secs(10);
/// No flash and no link to one answers faster.
const HONEST_US_MIN: u128 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::finding::Verdict;

    fn cost(fdatasync_us: u64, dsync_us: u64) -> FlushCost {
        FlushCost {
            access: Access::Direct,
            fdatasync: vec![Duration::from_micros(fdatasync_us); 3],
            dsync: vec![Duration::from_micros(dsync_us); 3],
        }
    }

    #[test]
    fn the_mode_that_measures_clearly_better_is_recommended() {
        let judge = |cost, configured| {
            let findings = flush_cost(&cost, configured);
            assert_eq!(findings.len(), 1, "{findings:?}");
            (findings[0].verdict, findings[0].advice.clone())
        };
        let set_dsync = (Verdict::Warn, "set journal.durability = \"dsync\"".to_owned());
        let set_fdatasync = (Verdict::Warn, "set journal.durability = \"fdatasync\"".to_owned());
        let fits = (Verdict::Ok, String::new());
        assert_eq!(judge(cost(300, 100), Durability::Fdatasync), set_dsync);
        assert_eq!(judge(cost(300, 250), Durability::Fdatasync), fits);
        assert_eq!(judge(cost(300, 250), Durability::Dsync), set_fdatasync);
        assert_eq!(judge(cost(300, 100), Durability::None), fits);
    }

    #[test]
    fn a_flush_faster_than_any_medium_is_doubted() {
        let findings = flush_cost(&cost(5, 5), Durability::Fdatasync);
        assert_eq!(findings[1].subject, "flush honesty");
    }

    #[test]
    fn room_is_judged_against_what_the_journal_may_take() {
        let config = Config::embedded();
        let judge = |free_bytes| {
            let name = "ext4".to_owned();
            room(&FileSystem { name, overwrites: Overwrites::InPlace, free_bytes }, &config).verdict
        };
        assert_eq!(judge(1 << 30), Verdict::Fail);
        assert_eq!(judge(10 << 30), Verdict::Warn);
        assert_eq!(judge(17 << 30), Verdict::Ok);
    }
}
