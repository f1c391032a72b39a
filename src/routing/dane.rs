//! What TLSA records of a host mean for mail (RFC 7672). Pure: answers are handed in.

use std::rc::Rc;
use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::mx::Host;
use crate::proto::dns::{Answer, LookupError, Name, Record};
use crate::tls::dane::{Association, Associations};

/// What is known of the TLSA records of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Dane {
    /// There are none, or none that are authentic.
    #[default]
    None,
    /// Whether there are any cannot be found out: who connects might be led astray (§2.1.1).
    Unknown(LookupError),
    /// None of them can be gone by: the session must be encrypted, whoever the host is (§2.2).
    Unusable,
    /// The session must be with whom they say.
    Usable(Arc<Associations>),
}

/// The names whose TLSA records are to be asked for, in order: those of the first that has any
/// count.
///
/// What a name is an alias for comes before the name (§2.2.2); it does not count where the way
/// there is not authentic. `is_name_authentic`: that the name is an alias is authentic by itself.
pub fn base_domains(host: &Host, is_name_authentic: bool) -> Vec<Name> {
    let name = Name::parse(&host.name);
    match (&host.canonical, host.authenticated) {
        (Some(canonical), true) => [canonical.clone()].into_iter().chain(name).collect(),
        (None, true) => name.into_iter().collect(),
        (Some(_), false) if is_name_authentic => name.into_iter().collect(),
        (_, false) => Vec::new(),
    }
}

/// The name under which the TLSA records of a host and port stand (RFC 6698 §3).
pub fn tlsa_name(base: &Name, port: u16) -> Option<Name> {
    base.prefixed(&format!("_{port}._tcp"))
}

/// What the answer to the question for the TLSA records of `base` means; `None` where the next name
/// is to be asked. `names` are those of the host.
pub fn read(base: &Name, found: &Result<Rc<Answer>, LookupError>, names: &[Name]) -> Option<Dane> {
    let answer = match found {
        Ok(answer) if answer.authenticated => answer,
        Ok(_) => return None,
        Err(error) if error.is_denial() => return None,
        Err(error) => return Some(Dane::Unknown(*error)),
    };
    let records = usable(answer);
    let others = names.iter().filter(|name| *name != base);
    let names = [base].into_iter().chain(others);
    let names: Vec<ServerName<'static>> =
        names.filter_map(|name| ServerName::try_from(name.as_str().to_owned()).ok()).collect();
    Some(match records.is_empty() || names.is_empty() {
        true => Dane::Unusable,
        false => Dane::Usable(Arc::new(Associations { records, names })),
    })
}

/// The TLSA records that can be gone by.
pub fn usable(answer: &Answer) -> Vec<Association> {
    let records = answer.records.iter().filter_map(|record| match record {
        Record::Tlsa(tlsa) => Some(Association {
            usage: tlsa.usage,
            selector: tlsa.selector,
            matching: tlsa.matching,
            data: tlsa.association.clone(),
        }),
        _ => None,
    });
    records.filter(Association::is_usable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::dns::Tlsa;

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a name")
    }

    fn host(canonical: Option<&str>, authenticated: bool) -> Host {
        Host {
            name: "mx.a.test".into(),
            preference: 0,
            addresses: vec![([192, 0, 2, 1], 25).into()],
            canonical: canonical.map(name),
            authenticated,
            dane: Dane::None,
        }
    }

    #[test]
    fn the_alias_comes_before_the_name_as_far_as_either_is_authentic() {
        let of = |canonical, authenticated, is_name_authentic| {
            let names = base_domains(&host(canonical, authenticated), is_name_authentic);
            names.iter().map(|name| name.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(of(None, true, false), ["mx.a.test"]);
        assert_eq!(of(Some("x.b.test"), true, true), ["x.b.test", "mx.a.test"]);
        assert_eq!(of(Some("x.b.test"), false, true), ["mx.a.test"]);
        assert!(of(Some("x.b.test"), false, false).is_empty());
        assert!(of(None, false, false).is_empty());
        let base = name("mx.a.test");
        assert_eq!(tlsa_name(&base, 25), Some(name("_25._tcp.mx.a.test")));
    }

    #[test]
    fn only_authentic_records_count_and_what_cannot_be_known_is_not_nothing() {
        let (base, other) = (name("x.b.test"), name("mx.a.test"));
        let names = [other.clone(), base.clone()];
        let answer = |records: &[(u8, u8, u8, usize)], authenticated| {
            let records = records.iter().map(|(usage, selector, matching, bytes)| {
                let (usage, selector, matching) = (*usage, *selector, *matching);
                let association = vec![7; *bytes].into();
                Record::Tlsa(Tlsa { usage, selector, matching, association })
            });
            let records = records.collect();
            Ok(Rc::new(Answer { records, canonical: None, authenticated }))
        };
        let read = |found| read(&base, &found, &names);
        let good = (3, 1, 1, 32);
        assert_eq!(read(answer(&[good], false)), None);
        assert_eq!(read(Err(LookupError::NoData)), None);
        assert_eq!(read(Err(LookupError::NoDomain)), None);
        let failed = LookupError::ServerFailure;
        assert_eq!(read(Err(failed)), Some(Dane::Unknown(failed)));
        assert_eq!(read(answer(&[(1, 1, 1, 32), (3, 1, 1, 31)], true)), Some(Dane::Unusable));
        let Some(Dane::Usable(found)) = read(answer(&[(0, 0, 1, 32), good], true)) else {
            panic!("there is one to go by");
        };
        assert_eq!(found.records.len(), 1);
        let names: Vec<_> = found.names.iter().map(|name| name.to_str().into_owned()).collect();
        assert_eq!(names, ["x.b.test", "mx.a.test"], "the base domain is asked for");
    }
}
