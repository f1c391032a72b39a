//! The file in which long windows outlive the process: what it says. `Pure.`
//!
//! Times are written as what is left of them, beside two clocks: the one since boot, which nobody
//! sets, counts as long as the machine was not started anew, the wall clock after that.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::SiteKey;
use super::meter::{Cooling, Record};
use crate::routing::Hop;

/// The clocks at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// Of this boot of the machine; empty where the system does not say.
    pub boot_id: String,
    /// Milliseconds since boot, suspended time included.
    pub boot_ms: u64,
    pub unix_ms: u64,
    /// Of this process; the times of a `Record` are by it.
    pub monotonic_ms: u64,
}

/// Records of all sites.
pub type Records = BTreeMap<SiteKey, Record>;

/// Why a file says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// 1-based.
    pub line: usize,
}

/// The text of the file.
pub fn write(records: &Records, clocks: &Clocks) -> String {
    let mut text = format!("{MAGIC}\n");
    let Clocks { boot_id, boot_ms, unix_ms, monotonic_ms } = clocks;
    // Writing into memory does not fail, here and below.
    let _ = writeln!(text, "clocks {boot_ms} {unix_ms} {boot_id}");
    for (site, record) in records {
        let source = site.source.map_or("-".to_owned(), |source| source.to_string());
        let _ = writeln!(text, "site {} {source} {}", site.hop, record.reserve);
        for (window_ms, cooling) in &record.windows {
            let _ = write!(text, "window {window_ms}");
            for it in cooling.iter().filter(|it| it.free_ms > *monotonic_ms) {
                let _ = write!(text, " {}:{}", it.free_ms - monotonic_ms, it.count);
            }
            text.push('\n');
        }
    }
    let _ = writeln!(text, "end {:08x}", checksum(&text));
    text
}

/// Of all lines before the last.
pub fn checksum(text: &str) -> u32 {
    crc32c::crc32c(text.as_bytes())
}

/// Records as they stand at `clocks`: what was reserved counts as used a moment from now, the
/// latest that it can reach the peer.
pub fn read(text: &str, clocks: &Clocks) -> Result<Records, Damaged> {
    let mut records = Records::new();
    let mut passed_ms = None;
    let mut site = None;
    let mut has_ended = false;
    let mut start = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let damaged = Damaged { line: index + 1 };
        let words = line.strip_suffix('\n').ok_or(damaged)?;
        let mut words = words.split(' ');
        match (index, words.next().ok_or(damaged)?) {
            _ if has_ended => return Err(damaged),
            (0, _) if line.trim_end() == MAGIC => {}
            (1, "clocks") => {
                let mut number = || words.next()?.parse().ok();
                let (boot_ms, unix_ms) = number().zip(number()).ok_or(damaged)?;
                let boot_id = words.next().ok_or(damaged)?;
                passed_ms = Some(clocks.passed_since(boot_id, boot_ms, unix_ms));
            }
            (_, "site") => {
                let (key, reserve) = read_site(&mut words).ok_or(damaged)?;
                let record = Record { reserve, windows: Vec::new() };
                let is_second = records.insert(key.clone(), record).is_some();
                site = Some((key, reserve));
                if is_second {
                    return Err(damaged);
                }
            }
            (_, "window") => {
                let (key, reserve) = site.as_ref().ok_or(damaged)?;
                let passed_ms = passed_ms.ok_or(damaged)?;
                let window = read_window(&mut words, *reserve, passed_ms, clocks.monotonic_ms);
                let record = records.get_mut(key).ok_or(damaged)?;
                record.windows.push(window.ok_or(damaged)?);
                record.reserve = 0;
            }
            (_, "end") => {
                let sum = words.next().and_then(|it| u32::from_str_radix(it, 16).ok());
                if sum != Some(checksum(&text[..start])) {
                    return Err(damaged);
                }
                has_ended = true;
            }
            _ => return Err(damaged),
        }
        if words.next().is_some() {
            return Err(damaged);
        }
        start += line.len();
    }
    if has_ended { Ok(records) } else { Err(Damaged { line: 0 }) }
}

fn read_site<'t>(words: &mut impl Iterator<Item = &'t str>) -> Option<(SiteKey, u32)> {
    let hop = Hop::parse(words.next()?)?;
    let source = match words.next()? {
        "-" => None,
        text => Some(text.parse().ok()?),
    };
    Some((SiteKey { hop, source }, words.next()?.parse().ok()?))
}

fn read_window<'t>(
    words: &mut impl Iterator<Item = &'t str>,
    reserve: u32,
    passed_ms: u64,
    now_ms: u64,
) -> Option<(u64, Vec<Cooling>)> {
    let window_ms: u64 = words.next()?.parse().ok()?;
    let mut cooling = Vec::new();
    for word in words {
        let (left_ms, count) = word.split_once(':')?;
        let (left_ms, count): (u64, u32) = (left_ms.parse().ok()?, count.parse().ok()?);
        // More than a window cannot be left, and a sum of all has to fit.
        if left_ms > 2 * window_ms || count > COUNT_MAX {
            return None;
        }
        if left_ms > passed_ms {
            cooling.push(Cooling { free_ms: now_ms + (left_ms - passed_ms), count });
        }
    }
    let is_bounded = (WINDOW_MS_MIN..=WINDOW_MS_MAX).contains(&window_ms);
    if !is_bounded || cooling.len() >= ENTRIES_MAX || reserve > COUNT_MAX {
        return None;
    }
    if reserve > 0 {
        cooling.push(Cooling { free_ms: now_ms + UNDER_WAY_MS + window_ms, count: reserve });
    }
    Some((window_ms, cooling))
}

impl Clocks {
    /// Milliseconds that have passed since a file was written, at the least.
    fn passed_since(&self, boot_id: &str, boot_ms: u64, unix_ms: u64) -> u64 {
        if !boot_id.is_empty() && boot_id == self.boot_id {
            self.boot_ms.saturating_sub(boot_ms)
        } else {
            self.unix_ms.saturating_sub(unix_ms)
        }
    }
}

const MAGIC: &str = "ringpost-leases-1";
/// What a process sent before its end may be under way for so long.
const UNDER_WAY_MS: u64 = 1_000;
const WINDOW_MS_MIN: u64 = 60_000;
const WINDOW_MS_MAX: u64 = 86_400_000;
const ENTRIES_MAX: usize = 1024;
const COUNT_MAX: u32 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn clocks(boot_id: &str, boot_ms: u64, unix_ms: u64, monotonic_ms: u64) -> Clocks {
        Clocks { boot_id: boot_id.into(), boot_ms, unix_ms, monotonic_ms }
    }

    fn key(hop: &str, source: Option<&str>) -> SiteKey {
        let hop = Hop::parse(hop).expect("a hop");
        SiteKey { hop, source: source.map(|it| it.parse().expect("an address")) }
    }

    fn cooling(free_ms: u64, count: u32) -> Cooling {
        Cooling { free_ms, count }
    }

    fn example() -> Records {
        let windows = vec![
            (60_000, vec![cooling(4_000, 9), cooling(30_000, 2)]),
            (86_400_000, vec![cooling(40_000_000, 7)]),
        ];
        let one = (key("smtp://192.0.2.1:25", None), Record { reserve: 5, windows });
        let source = Some("192.0.2.9");
        let two = Record { reserve: 0, windows: vec![(3_600_000, Vec::new())] };
        Records::from([one, (key("lmtp://[::1]:24", source), two)])
    }

    #[test]
    fn what_is_left_counts_from_the_writing_by_the_clock_that_can_be_trusted() {
        let text = write(&example(), &clocks("b1", 1_000, 500_000, 10_000));
        let left = |clocks: &Clocks| {
            let records = read(&text, clocks).expect("valid");
            let record = &records[&key("smtp://192.0.2.1:25", None)];
            assert_eq!(record.reserve, 0);
            record.windows.clone()
        };
        // Ten seconds later on the same boot, whatever the wall clock says.
        let windows = left(&clocks("b1", 11_000, 7, 100));
        assert_eq!(windows[0].1, [cooling(10_100, 2), cooling(61_100, 5)]);
        assert_eq!(windows[1].1[0].free_ms, 100 + 39_990_000 - 10_000);
        // After another boot by the wall clock; one that went back says nothing has passed.
        assert_eq!(left(&clocks("b2", 3, 519_999, 0))[0].1[0], cooling(1, 2));
        assert_eq!(left(&clocks("b2", 3, 400_000, 0))[0].1[0], cooling(20_000, 2));
    }

    #[test]
    fn no_damage_goes_unnoticed_wherever_the_text_is_cut() {
        let now = clocks("b1", 1_000, 500_000, 10_000);
        let text = write(&example(), &now);
        assert_eq!(read(&text, &now).map(|records| records.len()), Ok(2));
        for end in 0..text.len() {
            assert!(read(&text[..end], &now).is_err(), "cut at {end}");
        }
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(other) = String::from_utf8(bytes) else { continue };
            assert!(read(&other, &now).is_err(), "changed at {at}");
        }
        assert!(read(&format!("{text}x\n"), &now).is_err());
    }
}
