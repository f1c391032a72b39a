//! Dates as header fields write them (RFC 5322 §3.3), and as RFC 3339 does.

use std::io::Write;

/// Appends a unix time as `Tue, 24 Nov 2026 01:23:45 +0000`.
pub fn write_date(unix_ms: u64, out: &mut Vec<u8>) {
    let seconds = unix_ms / 1000;
    let days = seconds / 86_400;
    let (year, month, day) = civil_date(days);
    // 1970-01-01 was a Thursday.
    let weekday = WEEKDAYS[((days + 4) % 7) as usize];
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let month = MONTHS[month as usize - 1];
    // Writing into memory does not fail.
    let _ = write!(out, "{weekday}, {day} {month} {year} {hour:02}:{minute:02}:{second:02} +0000");
}

/// Appends a unix time as `2026-11-24T01:23:45Z`.
pub fn write_internet_date(unix_ms: u64, out: &mut Vec<u8>) {
    let seconds = unix_ms / 1000;
    let (year, month, day) = civil_date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    // Writing into memory does not fail.
    let _ = write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z");
}

/// Reads a date of RFC 3339 §5.6 as unix milliseconds; 0 for one before 1970. Fractions below a
/// millisecond are cut off, a leap second is the one before it.
pub fn parse_internet_date(text: &[u8]) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| {
        let digits = text.get(range)?;
        let is_number = digits.iter().all(u8::is_ascii_digit);
        is_number.then(|| digits.iter().fold(0, |value, it| value * 10 + u64::from(it - b'0')))
    };
    let is = |at: usize, octet: u8| text.get(at).is_some_and(|it| it.eq_ignore_ascii_case(&octet));
    let separated = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if !separated.into_iter().all(|(at, octet)| is(at, octet)) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let days = days_of(year, month, day)?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut zone = &text[19..];
    let mut fraction_ms = 0;
    if let Some(rest) = zone.strip_prefix(b".") {
        let count = rest.iter().take_while(|octet| octet.is_ascii_digit()).count();
        let digits = rest[..count].iter().chain(b"000").take(3);
        fraction_ms = digits.fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
        if count == 0 {
            return None;
        }
        zone = &rest[count..];
    }
    let offset_minutes = match zone {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), zone @ ..] => {
            let [h1 @ b'0'..=b'2', h2 @ b'0'..=b'9', b':', m1 @ b'0'..=b'5', m2 @ b'0'..=b'9'] =
                zone
            else {
                return None;
            };
            let two = |tens: u8, ones: u8| i64::from(tens - b'0') * 10 + i64::from(ones - b'0');
            let minutes = two(*h1, *h2) * 60 + two(*m1, *m2);
            if minutes >= 24 * 60 {
                return None;
            }
            if *sign == b'+' { minutes } else { -minutes }
        }
        _ => return None,
    };
    let of_day = (hour * 60 + minute) * 60 + second.min(59);
    let seconds = days * 86_400 + of_day as i64 - offset_minutes * 60;
    Some(u64::try_from(seconds * 1000 + fraction_ms).unwrap_or(0))
}

/// Days from 1970-01-01 to a date of the calendar.
fn days_of(year: u64, month: u64, day: u64) -> Option<i64> {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days_of_month = match month {
        2 => 28 + u64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if day == 0 || day > days_of_month {
        return None;
    }
    // Counted from March, so that the leap day ends the year; 400 years on: none is below 0 then.
    let shifted_year = year + 400 - u64::from(month <= 2);
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let days = shifted_year * 365 + shifted_year / 4 - shifted_year / 100 + shifted_year / 400;
    Some((days + day_of_year) as i64 - 719_468 - 146_097)
}

/// Year, month 1..=12 and day 1..=31 of a day counted from 1970-01-01 (proleptic Gregorian).
pub fn civil_date(days: u64) -> (u64, u64, u64) {
    // Counted from 0000-03-01, so that the leap day ends the year.
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let date = |unix_seconds: u64| {
            let mut out = Vec::new();
            write_date(unix_seconds * 1000, &mut out);
            String::from_utf8(out).expect("ASCII")
        };
        assert_eq!(date(0), "Thu, 1 Jan 1970 00:00:00 +0000");
        assert_eq!(date(951_827_696), "Tue, 29 Feb 2000 12:34:56 +0000");
        assert_eq!(date(1_795_483_425), "Tue, 24 Nov 2026 01:23:45 +0000");
        assert_eq!(date(4_107_542_400), "Mon, 1 Mar 2100 00:00:00 +0000");
    }

    #[test]
    fn internet_dates_read_back() {
        let read = |text: &str| parse_internet_date(text.as_bytes());
        for day in (0..80_000).step_by(13).chain([11_016, 11_017, 47_540, 47_541]) {
            let unix_ms = (day * 86_400 + day % 86_400) * 1000;
            let mut out = Vec::new();
            write_internet_date(unix_ms, &mut out);
            assert_eq!(parse_internet_date(&out), Some(unix_ms), "{out:?}");
        }
        assert_eq!(read("2026-11-24t01:23:45.6789z"), Some(1_795_483_425_678));
        assert_eq!(read("2026-11-24T02:23:45.5+01:00"), Some(1_795_483_425_500));
        assert_eq!(read("2026-11-23T19:53:45-05:30"), Some(1_795_483_425_000));
        assert_eq!(read("2016-12-31T23:59:60Z"), Some(1_483_228_799_000));
        assert_eq!(read("0001-01-01T00:00:00Z"), Some(0));
        assert_eq!(read("2024-02-29T00:00:00Z"), Some(1_709_164_800_000));
        let whole = "2026-11-24T01:23:45.678+01:00";
        assert!((0..whole.len()).all(|end| read(&whole[..end]).is_none()));
        for text in [
            "2023-02-29T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00Zx",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+24:00",
            "+026-01-01T00:00:00Z",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
