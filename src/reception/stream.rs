//! What a message is part of and when it may go, as header fields say it.

use std::time::Duration;

use crate::config::Headers;
use crate::mail::class::is_stream_name;
use crate::mail::{Class, Reply, Stream, status};
use crate::proto::message::date::parse_internet_date;
use crate::proto::message::removal::{FieldNames, Found};

/// The header fields that an operator has given a meaning.
pub(super) struct Fields {
    /// What is removed while the content passes.
    pub names: FieldNames,
    /// In the order of `names`.
    meanings: Vec<Meaning>,
    hold_max: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Tenant,
    Campaign,
    Class,
    Release,
}

impl Fields {
    /// `None` where no field has a meaning: content passes as it is then.
    pub fn new(headers: &Headers, hold_max: Duration) -> Option<Fields> {
        let all = [
            (Meaning::Tenant, &headers.tenant),
            (Meaning::Campaign, &headers.campaign),
            (Meaning::Class, &headers.class),
            (Meaning::Release, &headers.release),
        ];
        let named = all.into_iter().filter_map(|(meaning, name)| Some((meaning, name.as_ref()?)));
        let (meanings, names): (Vec<_>, Vec<_>) =
            named.map(|(meaning, name)| (meaning, name.as_str().into())).unzip();
        let names: FieldNames = names.into();
        (!meanings.is_empty()).then_some(Fields { names, meanings, hold_max })
    }

    /// Lets the fields that were found override `stream` and `release_ms`. `Err` refuses the
    /// message for a value that makes no sense: sent as if nothing had been said, it would go in a
    /// wrong name or too early. An empty value says nothing.
    pub fn apply(
        &self,
        found: Vec<Found>,
        stream: &mut Stream,
        release_ms: &mut u64,
        now_ms: u64,
    ) -> Result<(), Reply> {
        assert_eq!(found.len(), self.meanings.len());
        for (index, found) in found.into_iter().enumerate() {
            let value = match found {
                Found::Nothing => continue,
                Found::Value(value) if value.is_empty() => continue,
                Found::Value(value) => value,
                Found::Unusable => return Err(self.refusal(index)),
            };
            let is_good = match self.meanings[index] {
                Meaning::Tenant => set_name(&mut stream.tenant, &value),
                Meaning::Campaign => set_name(&mut stream.campaign, &value),
                Meaning::Class => {
                    let class = Class::parse(&value.to_ascii_lowercase());
                    class.map(|class| stream.class = class).is_some()
                }
                Meaning::Release => {
                    let release = self.release_ms(&value, now_ms);
                    release.map(|release| *release_ms = release).is_some()
                }
            };
            if !is_good {
                return Err(self.refusal(index));
            }
        }
        Ok(())
    }

    /// Seconds from now or a date of RFC 3339, at most `hold_max` away.
    fn release_ms(&self, value: &str, now_ms: u64) -> Option<u64> {
        let is_number = value.bytes().all(|octet| octet.is_ascii_digit());
        let release_ms = match is_number {
            true => value.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(now_ms)?,
            false => parse_internet_date(value.as_bytes())?,
        };
        (release_ms <= now_ms + self.hold_max.as_millis() as u64).then_some(release_ms)
    }

    fn refusal(&self, index: usize) -> Reply {
        let text = format!("The header field {} is not usable or comes twice", self.names[index]);
        Reply::with_text(550, status::CONTENT_REFUSED, text)
    }
}

fn set_name(name: &mut Box<str>, value: &str) -> bool {
    let is_good = is_stream_name(value);
    if is_good {
        *name = value.into();
    }
    is_good
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_795_672_800_000;

    fn fields() -> Fields {
        let headers = Headers {
            tenant: Some("X-Tenant".into()),
            campaign: None,
            class: Some("X-Class".into()),
            release: Some("X-Send-At".into()),
        };
        Fields::new(&headers, Duration::from_secs(600)).expect("some are named")
    }

    fn apply(values: [Found; 3]) -> Result<(Stream, u64), String> {
        let campaign = "of the listener".into();
        let mut stream = Stream { tenant: "a".into(), campaign, ..Stream::default() };
        let mut release_ms = 7;
        let applied = fields().apply(values.into(), &mut stream, &mut release_ms, NOW_MS);
        applied.map(|()| (stream, release_ms)).map_err(|reply| reply.to_string())
    }

    fn value(text: &str) -> Found {
        Found::Value(text.into())
    }

    #[test]
    fn what_a_header_field_says_goes_before_the_listener() {
        let stream = |tenant: &str, class| Stream {
            tenant: tenant.into(),
            campaign: "of the listener".into(),
            class,
            ..Stream::default()
        };
        let nothing = [Found::Nothing, Found::Nothing, Found::Nothing];
        assert_eq!(apply(nothing), Ok((stream("a", Class::Bulk), 7)));
        assert_eq!(apply([value(""), value(""), value("")]), Ok((stream("a", Class::Bulk), 7)));
        let said = [value("acme"), value("Transactional"), value("600")];
        assert_eq!(apply(said), Ok((stream("acme", Class::Transactional), NOW_MS + 600_000)));
        let date = [Found::Nothing, Found::Nothing, value("2026-11-26T06:00:01Z")];
        assert_eq!(apply(date), Ok((stream("a", Class::Bulk), NOW_MS + 1_000)));
    }

    #[test]
    fn a_value_that_makes_no_sense_refuses_the_message() {
        let refused = "550 5.6.0 The header field ";
        for (class, release) in [
            (Found::Unusable, Found::Nothing),
            (value("urgent"), Found::Nothing),
            (Found::Nothing, value("601")),
            (Found::Nothing, value("99999999999999999999999")),
            (Found::Nothing, value("18446744073709551615")),
            (Found::Nothing, value("soon")),
            (Found::Nothing, value("2026-11-26T06:10:01Z")),
        ] {
            let shown = format!("{class:?} {release:?}");
            let error = apply([Found::Nothing, class, release]).expect_err(&shown);
            assert!(error.starts_with(refused), "{error}");
        }
    }

    #[test]
    fn nothing_is_looked_at_where_no_field_has_a_meaning() {
        assert!(Fields::new(&Headers::default(), Duration::ZERO).is_none());
    }
}
