//! The public name of a queued message.

use std::fmt;
use std::str::FromStr;

/// `node.shard.id`: the node from the configuration, the shard of the home, a number the shard
/// never uses twice. Written as three base32 groups without ambiguous letters, `0.1.3K7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId {
    pub node: u16,
    pub shard: u16,
    pub message: u64,
}

/// The text is not a queue id.
#[derive(Debug, PartialEq, Eq)]
pub struct QueueIdError;

impl fmt::Display for QueueIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a queue id: expected three base32 groups, NODE.SHARD.ID")
    }
}

impl std::error::Error for QueueIdError {}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_base32(f, self.node.into())?;
        f.write_str(".")?;
        write_base32(f, self.shard.into())?;
        f.write_str(".")?;
        write_base32(f, self.message)
    }
}

impl FromStr for QueueId {
    type Err = QueueIdError;

    fn from_str(text: &str) -> Result<Self, QueueIdError> {
        let mut groups = text.split('.');
        let mut group = || groups.next().and_then(read_base32).ok_or(QueueIdError);
        let id = QueueId {
            node: group()?.try_into().map_err(|_| QueueIdError)?,
            shard: group()?.try_into().map_err(|_| QueueIdError)?,
            message: group()?,
        };
        if groups.next().is_some() { Err(QueueIdError) } else { Ok(id) }
    }
}

fn write_base32(f: &mut fmt::Formatter<'_>, mut value: u64) -> fmt::Result {
    let mut digits = [b'0'; 13];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = ALPHABET[(value & 31) as usize];
        value >>= 5;
        if value == 0 {
            break;
        }
    }
    f.write_str(std::str::from_utf8(&digits[first..]).expect("the alphabet is ASCII"))
}

fn read_base32(text: &str) -> Option<u64> {
    if text.is_empty() || text.len() > 13 {
        return None;
    }
    let mut value: u64 = 0;
    for byte in text.bytes() {
        let digit = ALPHABET.iter().position(|letter| *letter == byte.to_ascii_uppercase())?;
        value = value.checked_mul(32)?.checked_add(digit as u64)?;
    }
    Some(value)
}

/// Crockford's base32: no I, L, O, U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_reads_back_from_its_text() {
        for message in [0, 1, 31, 32, 1 << 20, u64::MAX] {
            let id = QueueId { node: 7, shard: 513, message };
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for text in ["", "1.2", "1.2.3.4", "1.2.U", "1..3", "1.2.ZZZZZZZZZZZZZZ", "ZZZZ.0.1"] {
            assert_eq!(text.parse::<QueueId>(), Err(QueueIdError), "{text}");
        }
    }
}
