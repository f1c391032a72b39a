//! What all shards have counted, and the reports that are to go out. `Pure.`

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::limits::{
    TLS_FAILURES_TOLD_APART_MAX, TLS_POLICIES_COUNTED_MAX, TLS_REPORTS_PENDING_MAX,
};
use crate::proto::message::date::write_internet_date;
use crate::proto::tlsrpt::{DateRange, FailureDetails, Policy, PolicyReport, Report};

/// Of the process; one shard has it.
#[derive(Default)]
pub(super) struct Ledger {
    /// Number of the period that is being counted, see `period_of`; `NO_PERIOD` before the first.
    period: u64,
    policies: HashMap<Policy, PolicyReport>,
    /// By number, in the order of their making.
    pending: BTreeMap<u64, Pending>,
    next_number: u64,
    /// Something changed since it was last written.
    pub is_dirty: bool,
}

/// A report on its way out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Pending {
    pub domain: String,
    /// Unix milliseconds.
    pub start_ms: u64,
    pub end_ms: u64,
    /// Unix milliseconds before which nothing is tried.
    pub due_ms: u64,
    pub attempts: u32,
    pub is_written: bool,
    /// Receivers that have it.
    pub done: Vec<String>,
    pub policies: Vec<PolicyReport>,
    /// Of the report, the same for all receivers.
    pub id: String,
    /// Somebody is at it.
    #[serde(skip)]
    pub is_in_hand: bool,
}

/// What the file holds.
#[derive(Serialize, Deserialize)]
struct State {
    version: u32,
    period: u64,
    policies: Vec<PolicyReport>,
    pending: Vec<Pending>,
}

/// Why a file says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damaged;

/// Periods are counted from 1970 on: with a day they are those of UTC.
fn period_of(now_ms: u64, interval_ms: u64) -> u64 {
    now_ms / interval_ms
}

impl Ledger {
    /// The ledger that `text` holds; what was counted in an earlier period is closed by the
    /// next `close`.
    pub fn read(text: &str) -> Result<Ledger, Damaged> {
        let (state, sum) = text.trim_end().rsplit_once('\n').ok_or(Damaged)?;
        if sum != checksum(state) {
            return Err(Damaged);
        }
        let state: State = serde_json::from_str(state).map_err(|_| Damaged)?;
        if state.version != VERSION {
            return Err(Damaged);
        }
        let mut ledger = Ledger { period: state.period, ..Ledger::default() };
        ledger.add(state.policies);
        for pending in state.pending.into_iter().take(TLS_REPORTS_PENDING_MAX) {
            ledger.push(pending);
        }
        ledger.is_dirty = false;
        Ok(ledger)
    }

    /// The text of the file.
    pub fn write(&mut self) -> String {
        self.is_dirty = false;
        let state = State {
            version: VERSION,
            period: self.period,
            policies: self.policies.values().cloned().collect(),
            pending: self.pending.values().cloned().collect(),
        };
        let text = serde_json::to_string(&state).expect("plain data has a JSON form");
        let sum = checksum(&text);
        format!("{text}\n{sum}\n")
    }

    /// Adds what a shard has counted. Returns how many sessions there was no room for.
    pub fn add(&mut self, counted: Vec<PolicyReport>) -> u64 {
        let mut lost = 0;
        for of_policy in counted {
            self.is_dirty = true;
            if let Some(known) = self.policies.get_mut(&of_policy.policy) {
                merge(known, of_policy);
            } else if self.policies.len() < TLS_POLICIES_COUNTED_MAX {
                self.policies.insert(of_policy.policy.clone(), of_policy);
            } else {
                let summary = &of_policy.summary;
                lost += summary.total_successful_session_count;
                lost += summary.total_failure_session_count;
            }
        }
        lost
    }

    /// Where the period is over, makes its reports: one a domain, each due at a moment of its own
    /// within a sixth of the interval (of a day four hours, RFC 8460 §4.1). Returns how many.
    pub fn close(
        &mut self,
        now_ms: u64,
        interval_ms: u64,
        hostname: &str,
        random: &mut dyn FnMut() -> u64,
    ) -> usize {
        let (before, now) = (self.period, period_of(now_ms, interval_ms));
        self.period = now;
        if before == now || before == NO_PERIOD {
            return 0;
        }
        let mut by_domain: BTreeMap<String, Vec<PolicyReport>> = BTreeMap::new();
        for (policy, of_policy) in self.policies.drain() {
            by_domain.entry(policy.policy_domain).or_default().push(of_policy);
        }
        let count = by_domain.len();
        // The clock may have gone back, or the interval be another one.
        let end_ms = (before + 1).saturating_mul(interval_ms).min(now_ms);
        for (domain, policies) in by_domain {
            let due_ms = now_ms + random() % (interval_ms / 6).max(1);
            let id = format!("{:016x}@{hostname}", random());
            self.push(Pending {
                domain,
                start_ms: end_ms.saturating_sub(interval_ms),
                end_ms,
                due_ms,
                attempts: 0,
                is_written: false,
                done: Vec::new(),
                policies,
                id,
                is_in_hand: false,
            });
        }
        count
    }

    fn push(&mut self, pending: Pending) {
        if self.pending.len() >= TLS_REPORTS_PENDING_MAX {
            self.pending.pop_first();
        }
        self.pending.insert(self.next_number, pending);
        self.next_number += 1;
        self.is_dirty = true;
    }

    /// A report that is due; nobody else gets it until it is put back or finished.
    pub fn take_due(&mut self, now_ms: u64) -> Option<(u64, Pending)> {
        let is_due = |it: &Pending| !it.is_in_hand && it.due_ms <= now_ms;
        let (number, pending) = self.pending.iter_mut().find(|(_, it)| is_due(it))?;
        pending.is_in_hand = true;
        Some((*number, pending.clone()))
    }

    /// It is to be tried again, as `pending` says.
    pub fn put_back(&mut self, number: u64, pending: Pending) {
        self.pending.insert(number, Pending { is_in_hand: false, ..pending });
        self.is_dirty = true;
    }

    /// Nothing is left to do for it.
    pub fn finish(&mut self, number: u64) {
        self.pending.remove(&number);
        self.is_dirty = true;
    }
}

impl Pending {
    /// In the form of RFC 8460 §4.4.
    pub fn report(&self, organization: &str, contact: &str) -> Report {
        let date = |unix_ms: u64| {
            let mut text = Vec::new();
            write_internet_date(unix_ms, &mut text);
            String::from_utf8(text).expect("a date is ASCII")
        };
        // The last second of the period.
        let end_ms = self.end_ms.saturating_sub(1000).max(self.start_ms);
        Report {
            organization_name: organization.to_owned(),
            date_range: DateRange {
                start_datetime: date(self.start_ms),
                end_datetime: date(end_ms),
            },
            contact_info: contact.to_owned(),
            report_id: self.id.clone(),
            policies: self.policies.clone(),
        }
    }

    /// Without an ending (RFC 8460 §5.2).
    pub fn file_name(&self, hostname: &str) -> String {
        let safe = |text: &str| -> String {
            let is_safe = |c: &char| c.is_ascii_alphanumeric() || "-_.".contains(*c);
            text.chars().map(|c| if is_safe(&c) { c } else { '_' }).collect()
        };
        let (start_s, end_s) = (self.start_ms / 1000, self.end_ms.div_ceil(1000));
        format!("{}!{}!{start_s}!{end_s}", safe(hostname), safe(&self.domain))
    }
}

fn merge(known: &mut PolicyReport, more: PolicyReport) {
    let (sum, summary) = (&mut known.summary, more.summary);
    sum.total_successful_session_count += summary.total_successful_session_count;
    sum.total_failure_session_count += summary.total_failure_session_count;
    for detail in more.failure_details {
        let is_same = |it: &&mut FailureDetails| {
            it.result_type == detail.result_type
                && it.sending_mta_ip == detail.sending_mta_ip
                && it.receiving_ip == detail.receiving_ip
                && it.receiving_mx_hostname == detail.receiving_mx_hostname
        };
        if let Some(known) = known.failure_details.iter_mut().find(is_same) {
            known.failed_session_count += detail.failed_session_count;
        } else if known.failure_details.len() < TLS_FAILURES_TOLD_APART_MAX {
            known.failure_details.push(detail);
        }
    }
}

fn checksum(text: &str) -> String {
    format!("{:08x}", crc32c::crc32c(text.as_bytes()))
}

const VERSION: u32 = 1;
const NO_PERIOD: u64 = 0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::tlsrpt::Summary;

    const DAY_MS: u64 = 86_400_000;
    /// 2026-11-26T00:00:00Z.
    const TODAY_MS: u64 = 20_783 * DAY_MS;

    fn counted(domain: &str, kind: &str, failures: u64) -> PolicyReport {
        let detail = FailureDetails {
            result_type: "certificate-expired".into(),
            receiving_mx_hostname: Some("mx.a.test".into()),
            failed_session_count: failures,
            ..FailureDetails::default()
        };
        PolicyReport {
            policy: Policy {
                policy_type: kind.into(),
                policy_domain: domain.into(),
                ..Policy::default()
            },
            summary: Summary {
                total_successful_session_count: 10,
                total_failure_session_count: failures,
            },
            failure_details: if failures > 0 { vec![detail] } else { Vec::new() },
        }
    }

    fn close(ledger: &mut Ledger, now_ms: u64) -> usize {
        let mut number = 0;
        ledger.close(now_ms, DAY_MS, "mx.us.test", &mut || {
            number += 1;
            number
        })
    }

    #[test]
    fn a_day_of_all_shards_becomes_a_report_a_domain() {
        let mut ledger = Ledger::default();
        assert_eq!(close(&mut ledger, TODAY_MS), 0);
        for _ in 0..2 {
            ledger.add(vec![counted("a.test", "sts", 2), counted("b.test", "tlsa", 0)]);
            ledger.add(vec![counted("a.test", "no-policy-found", 0)]);
        }
        assert_eq!(close(&mut ledger, TODAY_MS + DAY_MS - 1), 0, "the day is not over");
        assert_eq!(close(&mut ledger, TODAY_MS + DAY_MS), 2);
        assert_eq!(close(&mut ledger, TODAY_MS + DAY_MS), 0);
        assert!(ledger.take_due(TODAY_MS + DAY_MS).is_none(), "they are spread");
        let now_ms = TODAY_MS + DAY_MS + DAY_MS / 6;
        let (number, first) = ledger.take_due(now_ms).expect("due");
        let (_, second) = ledger.take_due(now_ms).expect("due");
        assert!(ledger.take_due(now_ms).is_none(), "both are in hand");
        assert_eq!((first.domain.as_str(), second.domain.as_str()), ("a.test", "b.test"));
        let report = first.report("Us", "postmaster@us.test");
        assert_eq!(report.date_range.start_datetime, "2026-11-26T00:00:00Z");
        assert_eq!(report.date_range.end_datetime, "2026-11-26T23:59:59Z");
        let name = "mx.us.test!a.test!1795651200!1795737600";
        assert_eq!(first.file_name("mx.us.test"), name);
        assert_eq!(report.policies.len(), 2);
        let of_sts = report.policies.iter().find(|it| it.policy.policy_type == "sts");
        let of_sts = of_sts.expect("there");
        assert_eq!(of_sts.summary.total_failure_session_count, 4);
        assert_eq!(of_sts.summary.total_successful_session_count, 20);
        assert_eq!(of_sts.failure_details[0].failed_session_count, 4);
        ledger.put_back(number, Pending { due_ms: now_ms + 1, ..first });
        assert!(ledger.take_due(now_ms).is_none());
        ledger.finish(number);
        assert!(ledger.take_due(now_ms + 1).is_none());
    }

    #[test]
    fn what_was_written_reads_back_and_what_was_damaged_does_not() {
        let mut ledger = Ledger::default();
        close(&mut ledger, TODAY_MS);
        ledger.add(vec![counted("a.test", "sts", 2)]);
        close(&mut ledger, TODAY_MS + DAY_MS);
        ledger.add(vec![counted("b.test", "sts", 1)]);
        let text = ledger.write();
        assert!(!ledger.is_dirty);
        let mut read = Ledger::read(&text).expect("whole");
        assert_eq!(read.write(), text);
        assert_eq!(close(&mut read, TODAY_MS + DAY_MS), 0);
        assert_eq!(close(&mut read, TODAY_MS + 2 * DAY_MS), 1);
        for cut in 0..text.len() - 1 {
            assert!(Ledger::read(&text[..cut]).is_err(), "cut at {cut}");
        }
        assert!(Ledger::read(&text.replace("b.test", "c.test")).is_err());
    }

    #[test]
    fn a_hostile_domain_gives_a_plain_file_name() {
        let mut ledger = Ledger::default();
        close(&mut ledger, TODAY_MS - DAY_MS);
        ledger.add(vec![counted("../a/\u{fc}", "sts", 2)]);
        close(&mut ledger, TODAY_MS);
        let (_, pending) = ledger.take_due(TODAY_MS + DAY_MS).expect("due");
        assert!(pending.file_name("mx").starts_with("mx!.._a__!"));
    }

    #[test]
    fn the_ledger_has_bounds() {
        let mut ledger = Ledger::default();
        let all = 0..TLS_POLICIES_COUNTED_MAX + 3;
        let lost = ledger.add(all.map(|it| counted(&format!("d{it}.test"), "sts", 1)).collect());
        assert_eq!(lost, 33, "eleven sessions each");
    }
}
