//! The Date field read back (RFC 5322 §3.3 and §4.3), for searching and sorting.

use super::lexer::{Lexer, is_white};

/// A point in time with the zone it was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub unix_seconds: i64,
    /// Minutes east of UTC, -1439..=1439.
    pub zone_minutes: i32,
}

impl DateTime {
    /// Days since 1970-01-01 by the calendar of its own zone, as SENTON compares
    /// (RFC 3501 §6.4.4).
    pub fn local_days(self) -> i64 {
        (self.unix_seconds + i64::from(self.zone_minutes) * 60).div_euclid(86_400)
    }
}

/// The date of a field body, or `None` when it has no day, month, year and time of day.
///
/// Seconds and zone may be missing, years have two digits or more, names of zones are those of
/// RFC 822; others count as UTC.
pub fn parse_date(body: &[u8]) -> Option<DateTime> {
    let mut words = Words { lexer: Lexer::new(body) };
    let mut word = words.next()?;
    if word[0].is_ascii_alphabetic() {
        word = words.next()?;
    }
    let day = number(&word).filter(|day| (1..=31).contains(day))?;
    let month = month(&words.next()?)?;
    let year = words.next()?;
    let year = match (number(&year)?, year.len()) {
        (year, 2) if year < 50 => year + 2000,
        (year, 2 | 3) => year + 1900,
        (year, _) => year,
    };
    let time = words.next()?;
    let mut fields = time.split(|octet| *octet == b':');
    let hour = number(fields.next()?).filter(|hour| *hour < 24)?;
    let minute = number(fields.next()?).filter(|minute| *minute < 60)?;
    let second = match fields.next() {
        // A leap second is the last one of its minute.
        Some(second) => number(second).filter(|second| *second <= 60)?.min(59),
        None => 0,
    };
    let zone_minutes = words.next().map_or(0, |word| zone(&word));
    let local = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(DateTime { unix_seconds: local - i64::from(zone_minutes) * 60, zone_minutes })
}

/// Days since 1970-01-01 of a date of the Gregorian calendar; month 1..=12.
pub fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // Counted from March, so that the leap day ends the year.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// 1..=12 for `Jan` to `Dec` in any case, longer names too.
pub fn month(word: &[u8]) -> Option<i64> {
    let name = word.get(..3)?;
    let index = MONTHS.iter().position(|month| name.eq_ignore_ascii_case(month))?;
    Some(index as i64 + 1)
}

/// At most six digits.
fn number(word: &[u8]) -> Option<i64> {
    if word.is_empty() || word.len() > 6 || !word.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(word.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
}

fn zone(word: &[u8]) -> i32 {
    if let [sign @ (b'+' | b'-'), digits @ ..] = word
        && digits.len() == 4
        && let Some(digits) = number(digits)
        && digits / 100 < 24
        && digits % 100 < 60
    {
        let minutes = (digits / 100 * 60 + digits % 100) as i32;
        return if *sign == b'-' { -minutes } else { minutes };
    }
    let hours = match word.get(..3).map(<[u8]>::to_ascii_uppercase).as_deref() {
        Some(b"EDT") => -4,
        Some(b"EST" | b"CDT") => -5,
        Some(b"CST" | b"MDT") => -6,
        Some(b"MST" | b"PDT") => -7,
        Some(b"PST") => -8,
        _ => 0,
    };
    hours * 60
}

/// Words between white space, commas and comments.
struct Words<'f> {
    lexer: Lexer<'f>,
}

impl Words<'_> {
    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            self.lexer.skip_cfws(None);
            if !self.lexer.eat(b',') {
                break;
            }
        }
        let ends = |octet| is_white(octet) || matches!(octet, b',' | b'(');
        let word = self.lexer.until(ends);
        (!word.is_empty()).then(|| word.to_vec())
    }
}

const MONTHS: [&[u8]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: Option<(i64, i32)>) {
        let parsed = parse_date(body.as_bytes());
        let parsed = parsed.map(|date| (date.unix_seconds, date.zone_minutes));
        assert_eq!(parsed, expected, "{body:?}");
    }

    #[test]
    fn dates_in_old_and_odd_forms() {
        check("Thu, 1 Jan 1970 00:00:00 +0000", Some((0, 0)));
        check("Fri, 21 Nov 1997 09:55:06 -0600", Some((880_127_706, -360)));
        check("Thu,\n 13\n Feb\n 1969\n 23:32\n -0330 (NT)", Some((-27_723_480, -210)));
        check("21 Nov 97 09:55:06 GMT", Some((880_106_106, 0)));
        check("Sun, 27 Oct 2002 23:57:07 EST", Some((1_035_781_027, -300)));
        check("29 Feb 2000 12:34:56", Some((951_827_696, 0)));
        check("31 December 1999 23:59:60 +0000", Some((946_684_799, 0)));
        for nothing in ["", "x", "Tue, 7 Bog 2026 19:14:51 +0000", "1 Jan", "40 Jan 2000 1:1"] {
            check(nothing, None);
        }
        check("1 Jan 2000 24:00:00 +0000", None);
    }

    #[test]
    fn the_day_is_that_of_the_zone() {
        let date = parse_date(b"1 Jan 1970 23:30:00 -0200").expect("a date");
        assert_eq!((date.unix_seconds / 86_400, date.local_days()), (1, 0));
    }

    #[test]
    fn what_is_written_is_read_back() {
        for unix_seconds in [0, 951_827_696, 1_795_483_425, 4_107_542_400] {
            let mut text = Vec::new();
            crate::proto::message::date::write_date(unix_seconds * 1000, &mut text);
            let date = parse_date(&text).expect("a date");
            assert_eq!(date, DateTime { unix_seconds: unix_seconds as i64, zone_minutes: 0 });
        }
    }
}
