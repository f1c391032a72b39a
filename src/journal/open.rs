//! Opening a shard's journal: lock, identity, recovery, and the thread that makes segments.

use std::cell::Cell;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::ops::DerefMut;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use super::core::{Core, Start};
use super::format::{SEGMENT_HEADER_BYTES, StoreId};
use super::log::Journal;
use super::recovery::{RecoverError, Recovery, Replay, SegmentSource, recover};
use super::space::Space;
use crate::config::{self, Config};
use crate::event::notice;
use crate::limits::{FRAME_BYTES_MAX, SPARE_SLOTS_MIN};
use crate::runtime::aligned::AlignedBuffer;
use crate::runtime::inbox::inbox;
use crate::runtime::log_ring::{Command, Durability, LogRing, ORDERS_MAX};
use crate::runtime::segment_file::{self, Access, SegmentFile};
use crate::runtime::{clock, thread};

/// What a journal needs to know.
#[derive(Clone, Debug)]
pub struct JournalConfig {
    pub data_dir: PathBuf,
    pub owner: Owner,
    pub segment_bytes: u64,
    /// Most disk this journal takes.
    pub bytes_max: u64,
    /// Space of the file system that growth leaves free.
    pub min_free_bytes: u64,
    pub durability: Durability,
    /// Core of the log thread; not pinned where `None`.
    pub log_core: Option<usize>,
}

/// Whose journal it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The queue of a shard.
    Shard(u16),
    /// A partition of mailboxes.
    Partition(u16),
}

impl JournalConfig {
    /// As `[journal]` says.
    pub fn of(config: &Config, owner: Owner) -> JournalConfig {
        let journal = &config.journal;
        JournalConfig {
            data_dir: config.data_dir.clone(),
            owner,
            segment_bytes: journal.segment_bytes,
            bytes_max: journal.bytes_max,
            min_free_bytes: journal.min_free_bytes,
            durability: match journal.durability {
                config::Durability::Fdatasync => Durability::Fdatasync,
                config::Durability::Dsync => Durability::Dsync,
                config::Durability::None => Durability::None,
            },
            log_core: None,
        }
    }
}

impl Owner {
    fn number(self) -> u16 {
        match self {
            Owner::Shard(number) | Owner::Partition(number) => number,
        }
    }

    /// As its LOCK has it.
    fn kind(self) -> &'static str {
        match self {
            Owner::Shard(_) => "shard",
            Owner::Partition(_) => "partition",
        }
    }

    /// What a thread of its journal is called.
    fn thread(self, what: &str) -> String {
        match self {
            Owner::Shard(number) => format!("{what}-{number}"),
            Owner::Partition(number) => format!("mail-{what}-{number}"),
        }
    }

    /// Its directory in the data directory, and the one around it.
    pub fn directory(self, data_dir: &Path) -> (PathBuf, PathBuf) {
        match self {
            Owner::Shard(number) => (data_dir.join(directory_name(number)), data_dir.to_owned()),
            Owner::Partition(number) => {
                let mail = data_dir.join("mail");
                (mail.join(format!("p{number:02}")), mail)
            }
        }
    }
}

/// Why a journal was not opened. Nothing was changed.
#[derive(Debug)]
pub enum OpenError {
    Io {
        path: PathBuf,
        error: io::Error,
    },
    /// Another process has the directory.
    Locked {
        path: PathBuf,
    },
    /// The directory belongs to another shard, or its LOCK file is no such file.
    Foreign {
        path: PathBuf,
    },
    /// A file of the journal is not a segment.
    Segment {
        path: PathBuf,
    },
    /// A segment was written by another version of this program.
    Version {
        path: PathBuf,
        version: u16,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Io { path, error } => write!(f, "{}: {error}", path.display()),
            OpenError::Locked { path } => write!(
                f,
                "{}: another process has this journal open; stop it first",
                path.display()
            ),
            OpenError::Foreign { path } => write!(
                f,
                "{}: not the lock of this shard's journal; was the directory copied or renamed?",
                path.display()
            ),
            OpenError::Segment { path } => {
                write!(f, "{}: too short or too long for a segment", path.display())
            }
            OpenError::Version { path, version } => write!(
                f,
                "{}: written in format {version}, which this version does not read; empty the \
                 queue with the version that wrote it, then remove the directory",
                path.display()
            ),
        }
    }
}

impl std::error::Error for OpenError {}

/// Numbers, from `first` on, of the shards that have a journal in `data_dir`, in ascending order;
/// none where the directory is not there. An empty directory is no journal.
pub fn shards_from(first: usize, data_dir: &Path) -> io::Result<Vec<usize>> {
    let entries = match std::fs::read_dir(data_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut shards = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(DIRECTORY_PREFIX));
        let number: Option<u16> = number.and_then(|number| number.parse().ok());
        let Some(number) = number.filter(|number| *directory_name(*number) == *name) else {
            continue;
        };
        if usize::from(number) >= first && std::fs::read_dir(entry.path())?.next().is_some() {
            shards.push(number.into());
        }
    }
    shards.sort_unstable();
    Ok(shards)
}

fn directory_name(shard: u16) -> String {
    format!("{DIRECTORY_PREFIX}{shard:02}")
}

const DIRECTORY_PREFIX: &str = "shard-";

impl Journal {
    /// Locks the shard's directory, gives what counts to `replay`, and starts.
    ///
    /// Blocks; call it on the shard's executor before it accepts anything.
    pub fn open(
        config: &JournalConfig,
        replay: &mut dyn Replay,
    ) -> Result<(Journal, Recovery), OpenError> {
        let owner = config.owner;
        let (directory, around) = owner.directory(&config.data_dir);
        let io_error = |error| OpenError::Io { path: directory.clone(), error };
        std::fs::create_dir_all(&directory).map_err(io_error)?;
        segment_file::sync_directory(&around).map_err(io_error)?;
        segment_file::sync_directory(&config.data_dir).map_err(io_error)?;
        let (lock, store) = lock(&directory, owner)?;
        remove_unfinished(&directory).map_err(io_error)?;
        let mut names = segment_names(&directory).map_err(io_error)?;
        while names.len() < FIRST_SEGMENTS {
            // Small, so that the first start is ready at once; the pool grows behind it.
            let name = segment_name(names.len());
            let bytes = FIRST_SEGMENT_BYTES.min(config.segment_bytes);
            segment_file::create_zeroed(&directory, &name, bytes).map_err(io_error)?;
            names.push(name);
        }
        let mut segments = Segments { files: Vec::new(), failed: None };
        for name in &names {
            let path = directory.join(name);
            let io_error = |error| OpenError::Io { path: path.clone(), error };
            let (file, access) = segment_file::open(&path).map_err(io_error)?;
            let capacity = file.metadata().map_err(io_error)?.len();
            if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&capacity) {
                return Err(OpenError::Segment { path });
            }
            if access == Access::Buffered && segments.files.is_empty() {
                notice!(
                    "ringpost: {}: the file system refuses direct writes; using its cache",
                    directory.display()
                );
            }
            segments.files.push((file, capacity));
        }
        let recovered = recover(&store, &mut segments, replay).map_err(|error| match error {
            RecoverError::Io(error) => match segments.failed {
                Some(slot) => OpenError::Io { path: directory.join(&names[slot]), error },
                None => io_error(error),
            },
            RecoverError::OtherVersion { slot, version } => {
                OpenError::Version { path: directory.join(&names[slot]), version }
            }
        });
        let (ground, recovery) = recovered?;
        for ((file, _), name) in segments.files.iter().zip(&names) {
            // What was read may stand in the disk's cache only: it counts from now on.
            let io_error = |error| OpenError::Io { path: directory.join(name), error };
            file.sync_data().map_err(io_error)?;
        }
        let capacities: Vec<u64> = segments.files.iter().map(|(_, capacity)| *capacity).collect();
        let maker = Maker::start(config, directory.clone(), &capacities, lock).map_err(io_error)?;
        let core =
            Core::new(Start { store, shard: owner.number(), ground, slots_max: maker.slots_max });
        let (completion_sender, completions) = inbox(ORDERS_MAX);
        let name = owner.thread("log");
        let ring = LogRing::start(&name, config.log_core, config.durability, completion_sender)
            .map_err(io_error)?;
        for (index, (file, _)) in segments.files.into_iter().enumerate() {
            let path = directory.join(&names[index]);
            let file =
                with_cached(file, &path, owner).map_err(|error| OpenError::Io { path, error })?;
            let mut order = Command::AddFile { file_index: index as u16, file };
            // The thread takes orders as fast as they come.
            while let Err(refused) = ring.send(order) {
                std::thread::yield_now();
                order = refused;
            }
        }
        Ok((Journal::start(core, ring, completions, maker), recovery))
    }
}

/// Locks the directory and reads, or at the first start gives, the store its identity.
fn lock(directory: &Path, owner: Owner) -> Result<(File, StoreId), OpenError> {
    let path = directory.join("LOCK");
    let io_error = |error| OpenError::Io { path: path.clone(), error };
    let mut options = OpenOptions::new();
    let mut file = options
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(io_error)?;
    match segment_file::lock(&file) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err(OpenError::Locked { path });
        }
        Err(error) => return Err(io_error(error)),
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(io_error)?;
    if text.is_empty() {
        let has_segments = !segment_names(directory).map_err(io_error)?.is_empty();
        if has_segments {
            return Err(OpenError::Foreign { path });
        }
        let mut id = [0; 16];
        clock::fill_random(&mut id);
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        file.seek(io::SeekFrom::Start(0)).map_err(io_error)?;
        let (kind, number) = (owner.kind(), owner.number());
        file.write_all(format!("ringpost store {hex} {kind} {number}\n").as_bytes())
            .map_err(io_error)?;
        file.sync_all().map_err(io_error)?;
        segment_file::sync_directory(directory).map_err(io_error)?;
        return Ok((file, StoreId(id)));
    }
    parse_lock(&text, owner).map(|store| (file, store)).ok_or(OpenError::Foreign { path })
}

fn parse_lock(text: &str, owner: Owner) -> Option<StoreId> {
    let rest = text.strip_prefix("ringpost store ")?.strip_suffix('\n')?;
    let (hex, of) = rest.split_once(' ')?;
    let (kind, number) = of.split_once(' ')?;
    let is_ours = kind == owner.kind() && number.parse::<u16>().ok()? == owner.number();
    if hex.len() != 32 || !is_ours {
        return None;
    }
    let mut id = [0; 16];
    for (index, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(StoreId(id))
}

/// Segments in the order of their names, which are their slots: none may be missing.
fn segment_names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        if let Some(name) = name.to_str()
            && name.starts_with("seg.")
            && !name.ends_with(".new")
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    for (slot, name) in names.iter().enumerate() {
        if *name != segment_name(slot) {
            return Err(io::Error::other(format!("{} is missing", segment_name(slot))));
        }
    }
    Ok(names)
}

fn segment_name(slot: usize) -> String {
    format!("seg.{slot:06}")
}

fn remove_unfinished(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "new") {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

struct Segments {
    files: Vec<(File, u64)>,
    /// The slot that could not be read.
    failed: Option<usize>,
}

impl SegmentSource for Segments {
    fn capacities(&self) -> Vec<u64> {
        self.files.iter().map(|(_, capacity)| *capacity).collect()
    }

    fn read(&mut self, slot: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let result = self.files[slot].0.read_exact_at(buffer, offset);
        if result.is_err() {
            self.failed = Some(slot);
        }
        result
    }

    fn buffer(&self, bytes: usize) -> Box<dyn DerefMut<Target = [u8]>> {
        Box::new(AlignedBuffer::new(bytes))
    }
}

/// A segment that is ready.
pub(super) struct Made {
    pub file_index: u16,
    pub file: SegmentFile,
    pub capacity: u64,
}

/// A segment that was not made; without an error the file system is too full.
struct Unmade {
    bytes: u64,
    error: Option<io::Error>,
}

/// The thread that makes segments off the hot path.
pub(super) struct Maker {
    /// Sizes.
    orders: mpsc::Sender<u64>,
    made: mpsc::Receiver<Result<Made, Unmade>>,
    pub slots_max: usize,
    directory: PathBuf,
    segment_bytes: u64,
    bytes_max: u64,
    min_free_bytes: u64,
    /// All segments, and what was ordered.
    pool_bytes: Cell<u64>,
    next_look_ms: Cell<u64>,
}

impl Maker {
    fn start(
        config: &JournalConfig,
        directory: PathBuf,
        capacities: &[u64],
        lock: File,
    ) -> io::Result<Maker> {
        let (orders, orders_received) = mpsc::channel();
        let (made_sender, made) = mpsc::channel();
        let min_free_bytes = config.min_free_bytes;
        let thread_directory = directory.clone();
        let (owner, mut next_slot) = (config.owner, capacities.len());
        thread::spawn(&config.owner.thread("segments"), None, move || {
            // The lock is held for as long as anybody may make a segment here.
            let _lock = lock;
            while let Ok(bytes) = orders_received.recv() {
                let made = make(&thread_directory, owner, next_slot, bytes, min_free_bytes);
                next_slot += usize::from(made.is_ok());
                if made_sender.send(made.map_err(|error| Unmade { bytes, error })).is_err() {
                    return;
                }
            }
        })?;
        let mut maker = Maker {
            orders,
            made,
            slots_max: 0,
            directory,
            segment_bytes: config.segment_bytes,
            bytes_max: config.bytes_max,
            min_free_bytes,
            pool_bytes: Cell::new(capacities.iter().sum()),
            next_look_ms: Cell::new(0),
        };
        maker.slots_max = maker.affordable(capacities.len())?;
        Ok(maker)
    }

    /// Has one more segment made.
    pub fn ask(&self) {
        let bytes = next_segment_bytes(self.pool_bytes.get(), self.segment_bytes);
        self.pool_bytes.set(self.pool_bytes.get() + bytes);
        // The thread ends only after its orders do.
        let _ = self.orders.send(bytes);
    }

    /// A slot that was made; an error of `None` means that the file system is too full.
    pub fn poll_made(&self) -> Option<Result<Made, Option<io::Error>>> {
        let made = self.made.try_recv().ok()?;
        Some(made.map_err(|unmade| {
            self.pool_bytes.set(self.pool_bytes.get() - unmade.bytes);
            unmade.error
        }))
    }

    /// Looks at times whether the file system has come to allow more, or less.
    pub fn slots_max_now(&self, space: Space) -> Option<usize> {
        let now_ms = clock::coarse_ms();
        if now_ms < self.next_look_ms.get() {
            return None;
        }
        self.next_look_ms.set(now_ms + LOOK_PERIOD_MS);
        self.affordable(space.slots).ok().filter(|slots_max| *slots_max != space.slots_max)
    }

    /// Slots that configuration and file system allow.
    fn affordable(&self, slot_count: usize) -> io::Result<usize> {
        let available = segment_file::available_bytes(&self.directory)?;
        let pool_bytes = self.pool_bytes.get();
        let bytes_max =
            self.bytes_max.min(pool_bytes + available.saturating_sub(self.min_free_bytes));
        let growth = growth_slots(pool_bytes, bytes_max, self.segment_bytes);
        Ok(slot_count.saturating_add(growth).min(SLOTS_MAX).max(slot_count))
    }
}

/// Size of the segment that a pool grows by: a quarter of it, so that a process that lives for a
/// moment leaves its successor more than it found.
fn next_segment_bytes(pool_bytes: u64, segment_bytes: u64) -> u64 {
    let quarter = (pool_bytes / 4).next_multiple_of(FIRST_SEGMENT_BYTES);
    quarter.max(FIRST_SEGMENT_BYTES).min(segment_bytes)
}

/// By how many segments a pool can grow up to `bytes_max`.
fn growth_slots(mut pool_bytes: u64, bytes_max: u64, segment_bytes: u64) -> usize {
    let mut count = 0;
    loop {
        let next = next_segment_bytes(pool_bytes, segment_bytes);
        let room = bytes_max.saturating_sub(pool_bytes) / next;
        if next == segment_bytes || room == 0 {
            return count + room as usize;
        }
        pool_bytes += next;
        count += 1;
    }
}

fn make(
    directory: &Path,
    owner: Owner,
    slot: usize,
    bytes: u64,
    min_free_bytes: u64,
) -> Result<Made, Option<io::Error>> {
    if segment_file::available_bytes(directory).map_err(Some)? < min_free_bytes + bytes {
        return Err(None);
    }
    let name = segment_name(slot);
    segment_file::create_zeroed(directory, &name, bytes).map_err(Some)?;
    let path = directory.join(&name);
    let (file, _) = segment_file::open(&path).map_err(Some)?;
    let file = with_cached(file, &path, owner).map_err(Some)?;
    Ok(Made { file_index: slot as u16, file, capacity: bytes })
}

/// Content of mailboxes is read again and again, that of a queue once.
fn with_cached(file: File, path: &Path, owner: Owner) -> io::Result<SegmentFile> {
    let cached = match owner {
        Owner::Partition(_) => Some(segment_file::open_cached(path)?),
        Owner::Shard(_) => None,
    };
    Ok(SegmentFile { file, cached })
}

/// Segments that the first start waits for: with so many a shard works for ever, should others take
/// all that is left of the disk.
const FIRST_SEGMENTS: usize = SLOTS_MIN;
/// Their size.
const FIRST_SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// A header, and room for a frame at the least.
const SEGMENT_BYTES_MIN: u64 = (SEGMENT_HEADER_BYTES + 2 * FRAME_BYTES_MAX) as u64;
/// What a `Location` can name.
const SEGMENT_BYTES_MAX: u64 = 65_535 * 4096;
/// The reserve, and some to write.
const SLOTS_MIN: usize = 8;
const _: () = assert!(SLOTS_MIN > SPARE_SLOTS_MIN);
/// What a `Location` can name.
const SLOTS_MAX: usize = u16::MAX as usize;
const LOOK_PERIOD_MS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_grows_by_a_quarter_up_to_whole_segments_and_no_further_than_allowed() {
        const MIB: u64 = 1 << 20;
        let mut pool = 32 * MIB;
        let mut sizes = Vec::new();
        while pool < 1024 * MIB {
            sizes.push(next_segment_bytes(pool, 64 * MIB) / MIB);
            pool += sizes.last().expect("pushed") * MIB;
        }
        assert!(sizes.is_sorted() && sizes[0] == 8 && sizes.ends_with(&[64]), "{sizes:?}");
        assert_eq!(growth_slots(32 * MIB, pool, 64 * MIB), sizes.len());
        assert_eq!(growth_slots(32 * MIB, pool - 1, 64 * MIB), sizes.len() - 1);
        assert_eq!(growth_slots(32 * MIB, 32 * MIB, 64 * MIB), 0);
        assert_eq!(growth_slots(33 * MIB, 32 * MIB, 64 * MIB), 0);
        // Segments as small as the first ones.
        assert_eq!(growth_slots(32 * MIB, 64 * MIB, 4 * MIB), 8);
    }

    #[test]
    fn journals_are_found_by_their_numbers() {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["shard-00", "shard-07", "shard-12", "shard-x", "shard-7", "other"] {
            let directory = directory.path().join(name);
            std::fs::create_dir(&directory).expect("made");
            std::fs::write(directory.join("LOCK"), "").expect("written");
        }
        std::fs::create_dir(directory.path().join("shard-09")).expect("made");
        let found = |first| shards_from(first, directory.path()).expect("readable");
        assert_eq!(found(0), [0, 7, 12], "an empty directory is no journal");
        assert_eq!(found(8), [12]);
        let missing = shards_from(0, &directory.path().join("missing"));
        assert!(missing.expect("nothing to read").is_empty());
    }
}
