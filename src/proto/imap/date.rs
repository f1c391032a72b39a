//! Dates of commands and responses (RFC 9051 §9, `date` and `date-time`).

use std::io::Write;

use super::cursor::{Cursor, Fault, Parsed};
use crate::proto::message::date::civil_date;
use crate::proto::mime::date::{DateTime, days_from_civil, month};

/// A day as days since 1970-01-01: `1-Feb-1994`, in quotes or not.
pub(super) fn date(cursor: &mut Cursor) -> Parsed<i64> {
    let is_quoted = cursor.eat(b'"');
    let day = day_of(cursor.take_while(|octet| octet.is_ascii_alphanumeric() || octet == b'-'));
    if is_quoted {
        cursor.expect(b'"', BAD_DATE.0)?;
    }
    day.ok_or(BAD_DATE)
}

/// `" 7-Feb-1994 21:52:25 -0800"`.
pub(super) fn date_time(cursor: &mut Cursor) -> Parsed<DateTime> {
    let text = cursor.string()?;
    let parsed = || {
        let text = text.trim_ascii_start();
        let (day, rest) = text.split_at_checked(text.iter().position(|octet| *octet == b' ')?)?;
        let [b' ', h1, h2, b':', m1, m2, b':', s1, s2, b' ', sign, z1, z2, z3, z4] = rest else {
            return None;
        };
        let two = |tens: &u8, ones: &u8| number(&[*tens, *ones]);
        let (hour, minute, second) = (two(h1, h2)?, two(m1, m2)?, two(s1, s2)?);
        let zone = two(z1, z2)? * 60 + two(z3, z4)?;
        let zone = match sign {
            b'+' => zone,
            b'-' => -zone,
            _ => return None,
        };
        if hour > 23 || minute > 59 || second > 60 || zone.abs() >= 24 * 60 {
            return None;
        }
        let local = day_of(day)? * 86_400 + hour * 3600 + minute * 60 + second.min(59);
        Some(DateTime { unix_seconds: local - zone * 60, zone_minutes: zone as i32 })
    };
    parsed().ok_or(BAD_DATE)
}

/// Appends `" 7-Feb-1994 21:52:25 -0800"`, the time in its own zone.
///
/// Years outside 1970..=9999 do not occur: they are written as the nearest of these.
pub fn write_date_time(time: DateTime, out: &mut Vec<u8>) {
    let local = time.unix_seconds + i64::from(time.zone_minutes) * 60;
    let local = local.clamp(0, LAST_SECOND) as u64;
    let (year, month, day) = civil_date(local / 86_400);
    let month = MONTHS[month as usize - 1];
    let (hour, minute, second) = (local / 3600 % 24, local / 60 % 60, local % 60);
    let sign = if time.zone_minutes < 0 { '-' } else { '+' };
    let zone = time.zone_minutes.unsigned_abs();
    let (zone_hours, zone_minutes) = (zone / 60, zone % 60);
    // Writing into memory does not fail.
    let _ = write!(
        out,
        "\"{day:2}-{month}-{year} {hour:02}:{minute:02}:{second:02} \
         {sign}{zone_hours:02}{zone_minutes:02}\""
    );
}

/// Days since 1970-01-01 of `1-Feb-1994`.
fn day_of(text: &[u8]) -> Option<i64> {
    let mut fields = text.split(|octet| *octet == b'-');
    let (day, name, year) = (fields.next()?, fields.next()?, fields.next()?);
    if fields.next().is_some() || name.len() != 3 || year.len() != 4 || day.len() > 2 {
        return None;
    }
    let (day, month, year) = (number(day)?, month(name)?, number(year)?);
    if day < 1 || day > days_in_month(year, month) {
        return None;
    }
    Some(days_from_civil(year, month, day))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let (next_year, next) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    days_from_civil(next_year, next, 1) - days_from_civil(year, month, 1)
}

fn number(digits: &[u8]) -> Option<i64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

const BAD_DATE: Fault = Fault("Bad date");
/// 9999-12-31 23:59:59.
const LAST_SECOND: i64 = 253_402_300_799;
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_from_the_epoch() {
        let check = |text: &str, expected: Option<i64>| {
            assert_eq!(date(&mut Cursor::new(text.as_bytes())).ok(), expected, "{text}");
        };
        check("1-Jan-1970", Some(0));
        check("\"2-jan-1970\"", Some(1));
        check("29-FEB-2000", Some(11_016));
        for bad in ["29-Feb-1999", "0-Jan-2000", "1-Foo-2000", "1-Jan-00", "\"1-Jan-2000", ""] {
            check(bad, None);
        }
    }

    #[test]
    fn times_go_both_ways() {
        for text in [
            "\" 7-Feb-1994 21:52:25 -0800\"",
            "\"31-Dec-1999 00:00:00 +0530\"",
            "\" 1-Jan-1970 00:00:00 +0000\"",
        ] {
            let time = date_time(&mut Cursor::new(text.as_bytes())).expect("a time");
            let mut out = Vec::new();
            write_date_time(time, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), text);
        }
        let time = date_time(&mut Cursor::new(b"\"7-Feb-1994 21:52:25 -0800\"")).expect("a time");
        assert_eq!((time.unix_seconds, time.zone_minutes), (760_686_745, -480));
        for bad in ["\"7-Feb-1994 24:00:00 +0000\"", "\"7-Feb-1994\"", "\"\"", "7-Feb-1994"] {
            assert!(date_time(&mut Cursor::new(bad.as_bytes())).is_err(), "{bad}");
        }
    }
}
