//! A report as JSON (RFC 8460 §4.4).

use serde::{Deserialize, Serialize};

/// What happened in one period with the policies of one domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Report {
    pub organization_name: String,
    pub date_range: DateRange,
    pub contact_info: String,
    pub report_id: String,
    pub policies: Vec<PolicyReport>,
}

/// In the form of RFC 3339.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct DateRange {
    pub start_datetime: String,
    pub end_datetime: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct PolicyReport {
    pub policy: Policy,
    pub summary: Summary,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failure_details: Vec<FailureDetails>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Policy {
    /// `tlsa`, `sts` or `no-policy-found`.
    pub policy_type: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policy_string: Vec<String>,
    pub policy_domain: String,
    /// Patterns of an MTA-STS policy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mx_host: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Summary {
    pub total_successful_session_count: u64,
    pub total_failure_session_count: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct FailureDetails {
    pub result_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sending_mta_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receiving_mx_hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receiving_mx_helo: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receiving_ip: Option<String>,
    pub failed_session_count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub additional_information: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_reason_code: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reports that others wrote: nothing of them is lost on the way through our structure.
    #[test]
    fn reports_of_others_have_our_shape() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/testdata/mail-auth/tlsrpt");
        let Ok(entries) = std::fs::read_dir(root) else { return };
        let mut count = 0;
        for path in entries.map(|entry| entry.expect("an entry").path()) {
            if path.extension().is_none_or(|it| it != "json") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a report");
            let theirs: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let report: Report = serde_json::from_value(theirs.clone()).expect("a report");
            let ours = serde_json::to_value(&report).expect("JSON");
            check_holds(&ours, &theirs);
            count += 1;
        }
        println!("{count} reports of others");
        assert!(count > 0);
    }

    /// Whether all that `theirs` says stands in `ours`.
    fn check_holds(ours: &serde_json::Value, theirs: &serde_json::Value) {
        use serde_json::Value::{Array, Object};
        match (ours, theirs) {
            (Object(ours), Object(theirs)) => {
                for (key, value) in theirs {
                    let found = ours.get(key).unwrap_or_else(|| panic!("no {key}"));
                    check_holds(found, value);
                }
            }
            (Array(ours), Array(theirs)) => {
                assert_eq!(ours.len(), theirs.len());
                ours.iter().zip(theirs).for_each(|(ours, theirs)| check_holds(ours, theirs));
            }
            (ours, theirs) => assert_eq!(ours, theirs),
        }
    }
}
