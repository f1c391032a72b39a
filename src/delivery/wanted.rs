//! What mail to a domain asks of the hosts it goes to, by the configuration and by what the domain
//! publishes. `Pure.`

use std::rc::Rc;
use std::sync::Arc;

use super::sts::{StsFailure, StsPolicy};
use crate::config::PublishedCounts;
use crate::mail::{Reply, TlsFailure, TlsPolicyFound, TlsPolicyKind, status};
use crate::proto::mta_sts::Mode;
use crate::routing::dane::Dane;
use crate::tls::client::{Demand, Level};
use crate::tls::dane::Associations;

/// What is asked of hosts. Mail that asks otherwise never shares a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    /// The least, as it is configured.
    pub demand: Arc<Demand>,
    /// TLSA records of hosts count.
    pub dane: bool,
    /// Never of mode `none`.
    pub sts: Option<Arc<StsPolicy>>,
}

/// What was found out of a domain beside its hosts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Published {
    /// The hosts are those it named, and some of them have TLSA records.
    pub dane: bool,
    pub sts: Option<Arc<StsPolicy>>,
    /// A policy was announced and could not be had just now.
    pub sts_failure: Option<Rc<StsFailure>>,
}

impl Published {
    /// Whether hosts get mail only where the domain's policy names them.
    pub fn is_enforced(&self) -> bool {
        self.sts.as_ref().is_some_and(|sts| sts.policy.mode == Mode::Enforce)
    }
}

/// What is asked of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// What is configured.
    Configured(Arc<Demand>),
    /// TLS, whoever the host is, as its TLSA records tell nothing else.
    Encrypted(Arc<Demand>),
    /// To be whom its TLSA records say.
    Dane(Arc<Demand>, Arc<Associations>),
    /// A certificate by a CA for the name of the host, as its policy demands.
    Sts(Arc<Demand>, Arc<StsPolicy>),
    /// What is configured; what would not do under the policy is told of.
    Testing(Arc<Demand>, Arc<StsPolicy>),
}

/// A host that this mail must not go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Excluded {
    pub reply: Reply,
    pub failure: TlsFailure,
    pub kind: TlsPolicyKind,
}

impl Wanted {
    /// By the configuration and by what the domain publishes.
    pub fn new(demand: Arc<Demand>, counts: PublishedCounts, published: &Published) -> Wanted {
        Wanted {
            demand,
            dane: counts.dane && published.dane,
            sts: published.sts.clone().filter(|_| counts.mta_sts),
        }
    }

    /// What is asked of a host by its name and TLSA records. Where these can be gone by, no policy
    /// of MTA-STS is (RFC 8461 §2); it is where they say no more than "encrypted".
    pub fn check(&self, host: &str, dane: &Dane) -> Result<Check, Excluded> {
        let demand = &self.demand;
        match dane {
            Dane::Usable(associations) if self.dane => {
                return Ok(Check::Dane(demand.clone(), associations.clone()));
            }
            Dane::Unknown(error) if self.dane => {
                let text = format!("DANE: the TLSA records of {host} cannot be had: {error}");
                return Err(Excluded {
                    reply: Reply::with_text(451, status::TLS_FAILED, text),
                    failure: TlsFailure::DnssecInvalid,
                    kind: TlsPolicyKind::Tlsa,
                });
            }
            Dane::None | Dane::Unknown(_) | Dane::Unusable | Dane::Usable(_) => {}
        }
        let is_encrypted = self.dane && *dane == Dane::Unusable;
        match &self.sts {
            Some(sts) if sts.policy.mode == Mode::Enforce => match sts.policy.allows(host) {
                true => Ok(Check::Sts(demand.clone(), sts.clone())),
                false => Err(Excluded {
                    reply: Reply::with_text(451, status::TLS_FAILED, sts.exclusion(host)),
                    failure: TlsFailure::ValidationFailure,
                    kind: TlsPolicyKind::Sts,
                }),
            },
            _ if is_encrypted => Ok(Check::Encrypted(demand.clone())),
            Some(sts) => Ok(Check::Testing(demand.clone(), sts.clone())),
            None => Ok(Check::Configured(demand.clone())),
        }
    }

    /// The policy under which sessions with a host are reported, for the mail of `domain`.
    pub fn policy_found(
        &self,
        kind: TlsPolicyKind,
        domain: &str,
        associations: Option<&Associations>,
    ) -> TlsPolicyFound {
        let records = associations.into_iter().flat_map(|it| &it.records);
        let (mut strings, mut mx_patterns) = (Vec::new(), Vec::new());
        match (kind, &self.sts) {
            (TlsPolicyKind::Tlsa, _) => strings.extend(records.map(|it| it.to_string().into())),
            (TlsPolicyKind::Sts, Some(sts)) => {
                strings.extend(sts.policy.lines().into_iter().map(Box::from));
                mx_patterns.extend(sts.policy.mx.iter().map(|it| it.to_string().into()));
            }
            _ => {}
        }
        let domain = domain.to_ascii_lowercase().into();
        TlsPolicyFound { kind, domain, strings, mx_patterns }
    }
}

impl Check {
    /// Whether mail may go without TLS.
    pub fn allows_plain(&self) -> bool {
        match self {
            Check::Configured(demand) | Check::Testing(demand, _) => demand.allows_plain(),
            Check::Encrypted(_) | Check::Dane(..) | Check::Sts(..) => false,
        }
    }

    /// Whether TLS is left alone.
    pub fn is_none(&self) -> bool {
        matches!(self, Check::Configured(demand) if demand.level == Level::None)
    }

    /// The TLSA records that are gone by.
    pub fn associations(&self) -> Option<&Associations> {
        match self {
            Check::Dane(_, associations) => Some(associations),
            _ => None,
        }
    }

    /// The kind of policy that sessions are reported under.
    pub fn kind(&self) -> TlsPolicyKind {
        match self {
            Check::Configured(_) => TlsPolicyKind::NoPolicyFound,
            Check::Encrypted(_) | Check::Dane(..) => TlsPolicyKind::Tlsa,
            Check::Sts(..) | Check::Testing(..) => TlsPolicyKind::Sts,
        }
    }

    /// Who demands what is more than configured, for replies.
    pub fn demanded_by(&self) -> String {
        match self {
            Check::Configured(_) | Check::Testing(..) => "TLS is demanded".to_owned(),
            Check::Encrypted(_) | Check::Dane(..) => "DANE demands TLS".to_owned(),
            Check::Sts(_, sts) => format!("The MTA-STS policy of {} demands TLS", sts.domain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::dns::LookupError;
    use crate::proto::mta_sts::Policy;
    use crate::tls::dane::Association;

    fn sts(mode: &str) -> Option<Arc<StsPolicy>> {
        let text = format!("version: STSv1\nmode: {mode}\nmx: *.a.test\nmax_age: 9");
        let policy = Policy::parse(text.as_bytes()).expect("valid");
        Some(Arc::new(StsPolicy { domain: "a.test".into(), id: "1".into(), policy }))
    }

    fn usable() -> Dane {
        let data = vec![0; 32].into();
        let records = vec![Association { usage: 3, selector: 1, matching: 1, data }];
        let names = vec!["mx.b.test".try_into().expect("a name")];
        Dane::Usable(Arc::new(Associations { records, names }))
    }

    #[test]
    fn tlsa_records_come_before_a_policy_and_neither_asks_for_less_than_is_configured() {
        let check = |dane: bool, mode: Option<&str>, host: &str, records: &Dane| {
            let sts = mode.and_then(sts);
            let wanted = Wanted { demand: Arc::default(), dane, sts };
            match wanted.check(host, records) {
                Ok(Check::Configured(_)) => "configured",
                Ok(Check::Encrypted(_)) => "encrypted",
                Ok(Check::Dane(..)) => "dane",
                Ok(Check::Sts(..)) => "sts",
                Ok(Check::Testing(..)) => "testing",
                Err(excluded) => {
                    assert!(excluded.reply.is_transient());
                    excluded.failure.as_str()
                }
            }
        };
        let (none, bogus) = (Dane::None, Dane::Unknown(LookupError::ServerFailure));
        let (enforce, testing) = (Some("enforce"), Some("testing"));
        let (ours, other) = ("mx.a.test", "mx.b.test");
        assert_eq!(check(true, None, other, &none), "configured");
        assert_eq!(check(true, None, other, &usable()), "dane");
        assert_eq!(check(true, None, other, &bogus), "dnssec-invalid");
        assert_eq!(check(true, None, other, &Dane::Unusable), "encrypted");
        assert_eq!(check(true, enforce, other, &usable()), "dane");
        assert_eq!(check(true, enforce, ours, &bogus), "dnssec-invalid");
        assert_eq!(check(true, enforce, ours, &Dane::Unusable), "sts");
        assert_eq!(check(true, testing, ours, &Dane::Unusable), "encrypted");
        for records in [none, bogus, Dane::Unusable, usable()] {
            assert_eq!(check(false, None, other, &records), "configured");
            assert_eq!(check(false, enforce, ours, &records), "sts");
            assert_eq!(check(false, enforce, other, &records), "validation-failure");
            assert_eq!(check(false, testing, other, &records), "testing");
        }
    }

    #[test]
    fn only_what_is_configured_may_go_in_the_clear() {
        let wanted = |level| {
            let demand = Arc::new(Demand { level, ..Demand::default() });
            Wanted { demand, dane: true, sts: None }
        };
        let check = |wanted: &Wanted, dane: &Dane| wanted.check("mx.a.test", dane).expect("one");
        let open = wanted(Level::Opportunistic);
        assert!(check(&open, &Dane::None).allows_plain());
        assert!(!check(&open, &Dane::Unusable).allows_plain());
        assert!(!check(&open, &usable()).allows_plain());
        assert!(!check(&wanted(Level::Required), &Dane::None).allows_plain());
        let enforced = Wanted { sts: sts("enforce"), ..open.clone() };
        assert!(!check(&enforced, &Dane::None).allows_plain());
        assert!(check(&Wanted { sts: sts("testing"), ..open }, &Dane::None).allows_plain());
    }
}
