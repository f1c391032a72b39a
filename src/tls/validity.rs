//! From when to when a certificate is valid (RFC 5280 §4.1.2.5), read from its DER. Pure.

/// Seconds since 1970 at which the certificate begins and ends to be valid; `None` where it is no
/// certificate. Nothing else in it is checked.
pub fn of(certificate: &[u8]) -> Option<(i64, i64)> {
    let (outer, _) = element(certificate, SEQUENCE)?;
    let (mut fields, _) = element(outer, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        fields = element(fields, VERSION)?.1;
    }
    // Serial number, signature algorithm, issuer.
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        fields = element(fields, tag)?.1;
    }
    let (validity, _) = element(fields, SEQUENCE)?;
    let (begin, rest) = time(validity)?;
    let (end, _) = time(rest)?;
    Some((begin, end))
}

/// The content of the element with this tag, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = bytes.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// `YYMMDDHHMMSSZ` from 1950 on, or `YYYYMMDDHHMMSSZ`; and what follows.
fn time(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let tag = *bytes.first()?;
    let (text, rest) = element(bytes, tag)?;
    let text = text.strip_suffix(b"Z")?;
    let digits_are_right = text.iter().all(u8::is_ascii_digit);
    let number = |at: usize| -> i64 {
        text[at..at + 2].iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'))
    };
    let (year, at) = match (tag, text.len()) {
        _ if !digits_are_right => return None,
        (UTC_TIME, 12) => (if number(0) < 50 { 2000 + number(0) } else { 1900 + number(0) }, 2),
        (GENERALIZED_TIME, 14) => (number(0) * 100 + number(2), 4),
        _ => return None,
    };
    let (month, day) = (number(at), number(at + 2));
    let (hour, minute, second) = (number(at + 4), number(at + 6), number(at + 8));
    let is_date = (1..=12).contains(&month) && (1..=31).contains(&day);
    if !is_date || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some((((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second, rest))
}

/// Days from 1970-01-01 to a date of the Gregorian calendar. The year is counted from March on, so
/// that the day that some years have more comes last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let months = (month + 9) % 12;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (months * 153 + 2) / 5 + day - 1;
    days - DAYS_TO_1970
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// [0], explicit.
const VERSION: u8 = 0xa0;
/// From March of the year 0.
const DAYS_TO_1970: i64 = 719_468;

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate() -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(vec!["a.test".into()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(2024, 2, 29);
        params.not_after = rcgen::date_time_ymd(2051, 1, 1);
        let key = rcgen::KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("signed").der().to_vec()
    }

    #[test]
    fn both_dates_are_read_in_both_forms() {
        assert_eq!(of(&certificate()), Some((1_709_164_800, 2_556_144_000)));
    }

    #[test]
    fn what_is_cut_has_no_dates_or_the_same() {
        let whole = certificate();
        for end in 0..whole.len() {
            assert_eq!(of(&whole[..end]), None, "cut at {end}");
        }
        for at in 0..whole.len() {
            let mut bent = whole.clone();
            bent[at] = !bent[at];
            // Any dates will do: it must come to its end.
            let _ = of(&bent);
        }
    }

    #[test]
    fn times_are_seconds_since_1970() {
        let time = |tag: u8, text: &str| {
            let bytes = [&[tag, text.len() as u8], text.as_bytes(), b"rest"].concat();
            time(&bytes).map(|(seconds, rest)| (seconds, rest.len()))
        };
        assert_eq!(time(UTC_TIME, "700101000000Z"), Some((0, 4)));
        assert_eq!(time(UTC_TIME, "491231235959Z"), Some((2_524_607_999, 4)));
        assert_eq!(time(UTC_TIME, "500101000000Z"), Some((-631_152_000, 4)));
        assert_eq!(time(GENERALIZED_TIME, "20000301000001Z"), Some((951_868_801, 4)));
        for text in ["700101000000", "7001010000Z", "701301000000Z", "7001010000+0Z", "Z", ""] {
            assert_eq!(time(UTC_TIME, text), None, "{text}");
        }
    }
}
