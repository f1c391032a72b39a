//! Values of the command line with their units: sizes, durations, shares, core sets.
//!
//! Pure.

use std::time::Duration;

/// `4096`, `4KiB`, `25MiB`, `1GiB`; also `4KB` (powers of ten).
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text);
    let factor = match unit {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(format!("`{text}` is no size: use 4096, 4KiB, 25MiB")),
    };
    let number: u64 = number.parse().map_err(|_| format!("`{text}` is no size: use 4KiB"))?;
    number.checked_mul(factor).ok_or_else(|| format!("`{text}` is too large"))
}

/// `500us`, `20ms`, `30s`, `5m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let wrong = || format!("`{text}` is no duration: use 500us, 20ms, 30s, 5m");
    let micros = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    Ok(Duration::from_micros(number.checked_mul(micros).ok_or_else(wrong)?))
}

/// `5%`, `0.5%` or `0.05`, as a number in 0..=1.
pub fn share(text: &str) -> Result<f64, String> {
    let (number, divisor) = match text.strip_suffix('%') {
        Some(percent) => (percent, 100.0),
        None => (text, 1.0),
    };
    let value = number.parse::<f64>().map_err(|_| format!("`{text}` is no share: use 5%"))?;
    let share = value / divisor;
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err(format!("`{text}` is outside of 0% to 100%"))
    }
}

/// Checks a value that is handed on to a process of ours as it stands.
pub fn checked<T: std::str::FromStr<Err = String>>(text: &str) -> Result<String, String> {
    text.parse::<T>().map(|_| text.to_owned())
}

/// A set of cores: `0-3,8`. Ascending, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores(pub Vec<usize>);

impl std::str::FromStr for Cores {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no core set: use 0, 0-3 or 0-3,8");
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: usize = first.trim().parse().map_err(|_| wrong())?;
            let last: usize = last.trim().parse().map_err(|_| wrong())?;
            if first > last || last >= CORES_MAX {
                return Err(wrong());
            }
            cores.extend(first..=last);
        }
        cores.sort_unstable();
        cores.dedup();
        Ok(Self(cores))
    }
}

impl std::fmt::Display for Cores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let texts: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

/// Message sizes and how often each occurs: `4KiB`, or `2KiB:50,4KiB:30,100KiB:20`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeMix {
    /// Size in bytes, weight.
    pub entries: Vec<(u64, u32)>,
}

impl SizeMix {
    /// The entries in an order in which every stretch keeps the proportions: the pattern that a run
    /// repeats. Indexes into `entries`.
    pub fn pattern(&self) -> Vec<usize> {
        let divisor = self.entries.iter().fold(0, |divisor, entry| gcd(divisor, entry.1));
        assert!(divisor > 0);
        let weights: Vec<i64> =
            self.entries.iter().map(|entry| i64::from(entry.1 / divisor)).collect();
        let total: i64 = weights.iter().sum();
        let mut credits = vec![0; weights.len()];
        let mut pattern = Vec::new();
        for _ in 0..total {
            for (credit, weight) in credits.iter_mut().zip(&weights) {
                *credit += weight;
            }
            let (chosen, _) = credits
                .iter()
                .enumerate()
                .max_by_key(|(index, credit)| (**credit, std::cmp::Reverse(*index)))
                .expect("a mix has an entry");
            credits[chosen] -= total;
            pattern.push(chosen);
        }
        pattern
    }
}

impl std::str::FromStr for SizeMix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut entries = Vec::new();
        for part in text.split(',') {
            let (bytes, weight) = part.split_once(':').unwrap_or((part, "1"));
            let bytes = size(bytes.trim())?;
            if !(MESSAGE_BYTES_MIN..=MESSAGE_BYTES_MAX).contains(&bytes) {
                return Err(format!("`{part}`: a message has 512 bytes to 1 GiB"));
            }
            let weight: u32 =
                weight.trim().parse().map_err(|_| format!("`{part}`: a weight is a number"))?;
            if weight == 0 || weight > WEIGHT_MAX {
                return Err(format!("`{part}`: a weight is 1 to {WEIGHT_MAX}"));
            }
            entries.push((bytes, weight));
        }
        Ok(Self { entries })
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

const CORES_MAX: usize = 1024;
const MESSAGE_BYTES_MIN: u64 = 512;
const MESSAGE_BYTES_MAX: u64 = 1 << 30;
const WEIGHT_MAX: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_have_units() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("4KiB"), Ok(4096));
        assert_eq!(size("20KB"), Ok(20_000));
        assert!(size("4kb").is_err());
        assert!(size("-1").is_err());
        assert_eq!(duration("20ms"), Ok(Duration::from_millis(20)));
        assert!(duration("20").is_err());
    }

    #[test]
    fn shares_lie_between_nothing_and_all() {
        assert_eq!(share("5%"), Ok(0.05));
        assert_eq!(share("0.25"), Ok(0.25));
        assert!(share("101%").is_err());
        assert!(share("-1%").is_err());
    }

    #[test]
    fn a_size_mix_is_read_with_its_weights() {
        let check = |text: &str, expected: Option<Vec<(u64, u32)>>| {
            assert_eq!(text.parse::<SizeMix>().ok().map(|mix| mix.entries), expected, "{text}");
        };
        check("4KiB", Some(vec![(4096, 1)]));
        check("2KiB:50,4KiB:30,100KiB:20", Some(vec![(2048, 50), (4096, 30), (102_400, 20)]));
        check("2KiB:0", None);
        check("2KiB:x", None);
        check("1B", None);
        check("", None);
    }

    #[test]
    fn the_pattern_of_a_mix_keeps_the_weights_and_spreads_them() {
        let mix: SizeMix = "2KiB:50,4KiB:30,100KiB:20".parse().expect("valid");
        let pattern = mix.pattern();
        assert_eq!(pattern.len(), 10);
        for (index, count) in [(0, 5), (1, 3), (2, 2)] {
            assert_eq!(pattern.iter().filter(|entry| **entry == index).count(), count);
        }
        assert!(pattern.windows(3).all(|window| window.iter().any(|entry| *entry != 2)));
    }

    #[test]
    fn core_sets_are_ascending() {
        assert_eq!("8,0-2,1".parse(), Ok(Cores(vec![0, 1, 2, 8])));
        assert!("3-1".parse::<Cores>().is_err());
        assert!("".parse::<Cores>().is_err());
    }
}
