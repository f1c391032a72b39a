//! What a sink does to everybody, switchable while it runs: up, dead, slow, or refusing for now.

use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::units;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Normal,
    Dead(Dead),
    /// Waits before it sends; replies that are ready together wait together.
    Slow(Duration),
    /// 451 to every RCPT.
    TempFail,
}

/// How a sink is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dead {
    /// Nobody listens: connections are refused.
    Closed,
    /// Accepts, then closes.
    HangUp,
    /// Answers 421, then closes.
    Unavailable,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "normal" => Ok(Self::Normal),
            "closed" => Ok(Self::Dead(Dead::Closed)),
            "hang-up" => Ok(Self::Dead(Dead::HangUp)),
            "unavailable" => Ok(Self::Dead(Dead::Unavailable)),
            "tempfail" => Ok(Self::TempFail),
            _ => match text.strip_prefix("slow:") {
                Some(delay) => Ok(Self::Slow(units::duration(delay)?)),
                None => Err(format!(
                    "`{text}`: a mode is normal, closed, hang-up, unavailable, slow:2s or tempfail"
                )),
            },
        }
    }
}

/// The mode of a running sink, set by one thread and read by all.
#[derive(Default)]
pub struct Switch {
    /// Kind in the low bits, delay in microseconds above them.
    word: AtomicU64,
}

impl Switch {
    pub fn new(mode: Mode) -> Self {
        let switch = Self::default();
        switch.set(mode);
        switch
    }

    pub fn set(&self, mode: Mode) {
        let word = match mode {
            Mode::Normal => 0,
            Mode::Dead(Dead::Closed) => 1,
            Mode::Dead(Dead::HangUp) => 2,
            Mode::Dead(Dead::Unavailable) => 3,
            Mode::TempFail => 4,
            Mode::Slow(delay) => 5 | (delay.as_micros() as u64) << KIND_BITS,
        };
        self.word.store(word, Ordering::Relaxed);
    }

    pub fn mode(&self) -> Mode {
        let word = self.word.load(Ordering::Relaxed);
        match word & ((1 << KIND_BITS) - 1) {
            0 => Mode::Normal,
            1 => Mode::Dead(Dead::Closed),
            2 => Mode::Dead(Dead::HangUp),
            3 => Mode::Dead(Dead::Unavailable),
            4 => Mode::TempFail,
            _ => Mode::Slow(Duration::from_micros(word >> KIND_BITS)),
        }
    }
}

const KIND_BITS: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_holds_every_mode_of_the_command_line() {
        for text in ["normal", "closed", "hang-up", "unavailable", "slow:1500ms", "tempfail"] {
            let mode: Mode = text.parse().expect("valid");
            assert_eq!(Switch::new(mode).mode(), mode, "{text}");
        }
        for text in ["", "slow", "slow:", "dead"] {
            assert!(text.parse::<Mode>().is_err(), "{text}");
        }
    }
}
