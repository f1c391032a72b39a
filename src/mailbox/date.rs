//! INTERNALDATE. `Pure.`

use crate::proto::mime::date::DateTime;

/// When a message came in, with the zone that an APPEND named: what a client gives is what it gets
/// back, and by the calendar of that zone BEFORE, ON and SINCE judge (RFC 3501 §6.4.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InternalDate {
    pub unix_s: u32,
    /// Quarters of an hour east of UTC, -95..=95.
    pub zone: i8,
}

impl InternalDate {
    /// What `write` appends.
    pub const BYTES: usize = 5;

    pub fn utc(unix_s: u32) -> Self {
        Self { unix_s, zone: 0 }
    }

    /// Seconds since 1970-01-01 00:00 by the clock of its zone.
    pub fn local_s(self) -> i64 {
        i64::from(self.unix_s) + i64::from(self.zone) * i64::from(QUARTER_MINUTES) * 60
    }

    pub fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.unix_s.to_le_bytes());
        out.push(self.zone as u8);
    }

    pub fn read(octets: [u8; Self::BYTES]) -> Self {
        let [unix_s @ .., zone] = octets;
        Self { unix_s: u32::from_le_bytes(unix_s), zone: (zone as i8).clamp(-95, 95) }
    }
}

/// The nearest that can be kept: none before 1970 or after 2106, and in UTC where the zone is not
/// of whole quarters of an hour.
impl From<DateTime> for InternalDate {
    fn from(date: DateTime) -> Self {
        let is_whole = date.zone_minutes % QUARTER_MINUTES == 0;
        let zone = if is_whole { (date.zone_minutes / QUARTER_MINUTES) as i8 } else { 0 };
        Self { unix_s: date.unix_seconds.clamp(0, u32::MAX.into()) as u32, zone }
    }
}

impl From<InternalDate> for DateTime {
    fn from(date: InternalDate) -> Self {
        let zone_minutes = i32::from(date.zone) * QUARTER_MINUTES;
        Self { unix_seconds: date.unix_s.into(), zone_minutes }
    }
}

const QUARTER_MINUTES: i32 = 15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_comes_back_with_its_zone() {
        for zone_minutes in [0, 120, -210, 345, 840, -720, 1425, -1425] {
            let given = DateTime { unix_seconds: 1_174_776_000, zone_minutes };
            let mut octets = Vec::new();
            InternalDate::from(given).write(&mut octets);
            let kept = InternalDate::read(octets.try_into().expect("so many"));
            assert_eq!(DateTime::from(kept), given);
            assert_eq!(kept.local_s(), 1_174_776_000 + i64::from(zone_minutes) * 60);
        }
    }

    #[test]
    fn what_cannot_be_kept_becomes_the_nearest() {
        let kept = |unix_seconds, zone_minutes| {
            InternalDate::from(DateTime { unix_seconds, zone_minutes })
        };
        assert_eq!(kept(-5, 60), InternalDate { unix_s: 0, zone: 4 });
        assert_eq!(kept(1 << 40, 0), InternalDate::utc(u32::MAX));
        assert_eq!(kept(1000, 1439), InternalDate::utc(1000));
        assert_eq!(InternalDate::read([1, 0, 0, 0, 0x80]), InternalDate { unix_s: 1, zone: -95 });
    }
}
