//! Files of delivery ids: a header with the run, then one little-endian word an id.
//!
//! **Holds** that a batch is one appending write, so several shards share a file without a lock,
//! and that a torn last word (a killed writer) is not read.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use crate::audit::DeliveryId;

/// Identifies a run; eight hexadecimal digits in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunId(pub u32);

impl RunId {
    pub fn random() -> Self {
        Self(ringpost::runtime::clock::random_u64() as u32)
    }
}

impl std::str::FromStr for RunId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        u32::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| format!("`{text}` is no run: up to 8 hexadecimal digits"))
    }
}

impl std::fmt::Display for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// Makes an empty id file, or empties one that is there.
pub fn create(path: &Path, run: RunId) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&run.0.to_le_bytes());
    file.write_all(&header)
}

/// One shard's end of an id file: collects, and appends when told or when the batch is full.
pub struct IdWriter {
    file: Option<File>,
    batch: Vec<u8>,
}

impl IdWriter {
    /// Opens a file made by `create`; `None` counts nothing.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        let file = path.map(|path| File::options().append(true).open(path)).transpose()?;
        Ok(Self { file, batch: Vec::with_capacity(BATCH_BYTES) })
    }

    pub fn push(&mut self, id: DeliveryId) -> io::Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        self.batch.extend_from_slice(&id.0.to_le_bytes());
        if self.batch.len() >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    /// An id and when it came, in microseconds since 1970: for a file of such pairs.
    pub fn push_at(&mut self, id: DeliveryId, now_us: impl Fn() -> u64) -> io::Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        self.batch.extend_from_slice(&id.0.to_le_bytes());
        self.batch.extend_from_slice(&now_us().to_le_bytes());
        if self.batch.len() >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    pub fn flush(&mut self) -> io::Result<()> {
        if let Some(file) = &mut self.file
            && !self.batch.is_empty()
        {
            file.write_all(&self.batch)?;
            self.batch.clear();
        }
        Ok(())
    }
}

/// Ids in the file so far, without reading them.
pub fn count(path: &Path) -> io::Result<u64> {
    let bytes = std::fs::metadata(path)?.len();
    Ok(bytes.saturating_sub(HEADER_BYTES as u64) / ID_BYTES as u64)
}

/// All ids of the file. `InvalidData` when it is no id file.
pub fn read(path: &Path) -> io::Result<(RunId, Vec<DeliveryId>)> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    let Some((header, words)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    if &header[..8] != MAGIC {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let run = RunId(u32::from_le_bytes([header[8], header[9], header[10], header[11]]));
    let (words, _torn) = words.as_chunks::<ID_BYTES>();
    Ok((run, words.iter().map(|word| DeliveryId(u64::from_le_bytes(*word))).collect()))
}

/// All pairs of a file that `push_at` wrote.
pub fn read_times(path: &Path) -> io::Result<Vec<(DeliveryId, u64)>> {
    let (_, words) = read(path)?;
    let (pairs, _torn) = words.as_chunks::<2>();
    Ok(pairs.iter().map(|[id, time]| (*id, time.0)).collect())
}

const MAGIC: &[u8; 8] = b"rp-ids\x00\x01";
const HEADER_BYTES: usize = 16;
const ID_BYTES: usize = 8;
const BATCH_BYTES: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_and_a_torn_word_does_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ids");
        create(&path, RunId(0xabc)).expect("created");
        let mut writer = IdWriter::open(Some(&path)).expect("open");
        let ids: Vec<DeliveryId> = (0..3000).map(|n| DeliveryId::new(n, 1)).collect();
        for id in &ids {
            writer.push(*id).expect("pushed");
        }
        writer.flush().expect("flushed");
        let mut file = File::options().append(true).open(&path).expect("open");
        file.write_all(b"torn").expect("written");
        assert_eq!(count(&path).expect("counted"), 3000);
        assert_eq!(read(&path).expect("read"), (RunId(0xabc), ids));
    }

    #[test]
    fn ids_come_back_with_their_times() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("times");
        create(&path, RunId(1)).expect("created");
        let mut writer = IdWriter::open(Some(&path)).expect("open");
        let id = DeliveryId::new(7, 2);
        writer.push_at(id, || 99).expect("pushed");
        writer.flush().expect("flushed");
        assert_eq!(read_times(&path).expect("read"), [(id, 99)]);
    }

    #[test]
    fn a_foreign_file_is_no_id_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ids");
        std::fs::write(&path, "something else, and long").expect("written");
        assert!(read(&path).is_err());
    }
}
