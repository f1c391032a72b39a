//! Sessions of one shard, counted by policy and by what went wrong. `Pure.`

use std::collections::HashMap;
use std::net::IpAddr;

use crate::limits::{TLS_FAILURES_TOLD_APART_MAX, TLS_POLICIES_COUNTED_MAX};
use crate::mail::{TlsFailure, TlsOutcome, TlsPolicyFound};
use crate::proto::tlsrpt::{FailureDetails, Policy, PolicyReport, Summary};

/// What has happened since it was last taken.
#[derive(Default)]
pub(in super::super) struct Counts {
    policies: HashMap<TlsPolicyFound, OfPolicy>,
}

#[derive(Default)]
struct OfPolicy {
    success_count: u64,
    failure_count: u64,
    /// Of the failures, those that are told apart; at most `TLS_FAILURES_TOLD_APART_MAX`.
    kinds: Vec<Kind>,
}

/// Failures that differ in nothing a report tells.
struct Kind {
    failure: TlsFailure,
    sending_address: Option<IpAddr>,
    receiving_address: Option<IpAddr>,
    host: Box<str>,
    /// Of the first of them.
    reason: Box<str>,
    count: u64,
}

impl Counts {
    /// Counts a session; what is known already costs no memory. False where there is no room for
    /// another policy.
    pub fn add(&mut self, outcome: &TlsOutcome) -> bool {
        if let Some(of_policy) = self.policies.get_mut(&*outcome.policy) {
            of_policy.add(outcome);
            return true;
        }
        if self.policies.len() >= TLS_POLICIES_COUNTED_MAX {
            return false;
        }
        self.policies.entry((*outcome.policy).clone()).or_default().add(outcome);
        true
    }

    /// Takes what was counted. A policy of which nothing was counted since the last time is
    /// forgotten; the others stay known.
    pub fn take(&mut self) -> Vec<PolicyReport> {
        self.policies.retain(|_, of_policy| of_policy.success_count + of_policy.failure_count > 0);
        self.policies.iter_mut().map(|(policy, of_policy)| of_policy.take(policy)).collect()
    }
}

impl OfPolicy {
    fn add(&mut self, outcome: &TlsOutcome) {
        let Err(failure) = outcome.result else {
            self.success_count += 1;
            return;
        };
        self.failure_count += 1;
        let is_same = |kind: &&mut Kind| {
            kind.failure == failure
                && kind.sending_address == outcome.sending_address
                && kind.receiving_address == outcome.receiving_address
                && kind.host == outcome.host
        };
        if let Some(kind) = self.kinds.iter_mut().find(is_same) {
            kind.count += 1;
        } else if self.kinds.len() < TLS_FAILURES_TOLD_APART_MAX {
            self.kinds.push(Kind {
                failure,
                sending_address: outcome.sending_address,
                receiving_address: outcome.receiving_address,
                host: outcome.host.clone(),
                reason: outcome.reason.clone(),
                count: 1,
            });
        }
    }

    fn take(&mut self, policy: &TlsPolicyFound) -> PolicyReport {
        let details = self.kinds.iter_mut().filter(|kind| kind.count > 0).map(Kind::take);
        let failure_details = details.collect();
        let texts = |texts: &[Box<str>]| texts.iter().map(|it| it.to_string()).collect();
        PolicyReport {
            policy: Policy {
                policy_type: policy.kind.as_str().to_owned(),
                policy_string: texts(&policy.strings),
                policy_domain: policy.domain.to_string(),
                mx_host: texts(&policy.mx_patterns),
            },
            summary: Summary {
                total_successful_session_count: std::mem::take(&mut self.success_count),
                total_failure_session_count: std::mem::take(&mut self.failure_count),
            },
            failure_details,
        }
    }
}

impl Kind {
    fn take(&mut self) -> FailureDetails {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        FailureDetails {
            result_type: self.failure.as_str().to_owned(),
            sending_mta_ip: self.sending_address.map(|address| address.to_string()),
            receiving_mx_hostname: text(&self.host),
            receiving_ip: self.receiving_address.map(|address| address.to_string()),
            failed_session_count: std::mem::take(&mut self.count),
            failure_reason_code: text(&self.reason),
            ..FailureDetails::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::TlsPolicyKind;

    fn outcome(domain: &str, host: &str, result: Result<(), TlsFailure>) -> TlsOutcome {
        let policy = TlsPolicyFound {
            kind: TlsPolicyKind::Sts,
            domain: domain.into(),
            strings: vec!["version: STSv1".into()],
            mx_patterns: vec!["*.a.test".into()],
        };
        TlsOutcome {
            policy: policy.into(),
            host: host.into(),
            sending_address: None,
            receiving_address: Some([192, 0, 2, 1].into()),
            result,
            reason: result.map_or("why", |()| "").into(),
        }
    }

    #[test]
    fn sessions_are_counted_by_what_happened_and_taken_once() {
        let mut counts = Counts::default();
        let expired = Err(TlsFailure::CertificateExpired);
        for (host, result, times) in [
            ("mx1.a.test", Ok(()), 3),
            ("mx1.a.test", expired, 2),
            ("mx2.a.test", expired, 1),
            ("mx2.a.test", Err(TlsFailure::StartTlsNotSupported), 1),
        ] {
            for _ in 0..times {
                assert!(counts.add(&outcome("a.test", host, result)));
            }
        }
        let taken = counts.take();
        assert_eq!(taken.len(), 1);
        let summary = &taken[0].summary;
        assert_eq!(summary.total_successful_session_count, 3);
        assert_eq!(summary.total_failure_session_count, 4);
        let details = taken[0].failure_details.iter();
        let told = details.map(|it| {
            (it.result_type.as_str(), it.receiving_mx_hostname.as_deref(), it.failed_session_count)
        });
        let expected = [
            ("certificate-expired", Some("mx1.a.test"), 2),
            ("certificate-expired", Some("mx2.a.test"), 1),
            ("starttls-not-supported", Some("mx2.a.test"), 1),
        ];
        assert_eq!(told.collect::<Vec<_>>(), expected);
        counts.add(&outcome("a.test", "mx1.a.test", expired));
        let again = counts.take();
        assert_eq!(again[0].summary.total_failure_session_count, 1);
        assert_eq!(again[0].failure_details.len(), 1, "what did not happen again is not told");
        assert!(counts.take().is_empty());
    }

    #[test]
    fn the_table_has_bounds_and_no_session_is_told_twice() {
        let mut counts = Counts::default();
        let failed = Err(TlsFailure::ValidationFailure);
        for number in 0..TLS_FAILURES_TOLD_APART_MAX + 5 {
            assert!(counts.add(&outcome("a.test", &format!("mx{number}.a.test"), failed)));
        }
        for number in 1..TLS_POLICIES_COUNTED_MAX {
            assert!(counts.add(&outcome(&format!("d{number}.test"), "mx", Ok(()))));
        }
        assert!(!counts.add(&outcome("one-more.test", "mx", Ok(()))));
        assert!(counts.add(&outcome("d1.test", "mx", Ok(()))), "those that are known go on");
        let taken = counts.take();
        assert_eq!(taken.len(), TLS_POLICIES_COUNTED_MAX);
        let first = taken.iter().find(|it| it.policy.policy_domain == "a.test").expect("there");
        let failures = first.summary.total_failure_session_count as usize;
        assert_eq!(failures, TLS_FAILURES_TOLD_APART_MAX + 5, "all of them");
        assert_eq!(first.failure_details.len(), TLS_FAILURES_TOLD_APART_MAX);
    }
}
