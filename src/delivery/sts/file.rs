//! The file in which MTA-STS policies outlive the process. Pure.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::StsPolicy;
use crate::proto::dns::Name;
use crate::proto::mta_sts::Policy;

/// A policy, and since when it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub policy: Arc<StsPolicy>,
    /// Unix seconds.
    pub fetched_s: u64,
}

impl Kept {
    /// Unix seconds from which on it does not hold.
    pub fn ends_s(&self) -> u64 {
        self.fetched_s.saturating_add(self.policy.policy.max_age_s.into())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Policies {
    version: u32,
    policies: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    domain: String,
    id: String,
    fetched_s: u64,
    /// As the web server gave it, without what we do not know.
    policy: String,
}

/// JSON, in order of the domains.
pub fn write<'k>(kept: impl Iterator<Item = &'k Kept>) -> String {
    let entry = |kept: &Kept| Entry {
        domain: kept.policy.domain.to_string(),
        id: kept.policy.id.to_string(),
        fetched_s: kept.fetched_s,
        policy: kept.policy.policy.lines().join("\n"),
    };
    let mut policies: Vec<Entry> = kept.map(entry).collect();
    policies.sort_by(|a, b| a.domain.cmp(&b.domain));
    let policies = Policies { version: VERSION, policies };
    serde_json::to_string_pretty(&policies).expect("strings and numbers are JSON") + "\n"
}

/// Reads what `write` writes. `Err` says what is wrong with it: nothing of it is to be gone by.
pub fn read(text: &str) -> Result<Vec<Kept>, String> {
    let Policies { version, policies } =
        serde_json::from_str(text).map_err(|error| format!("damaged: {error}"))?;
    if version != VERSION {
        return Err(format!("of version {version}, not {VERSION}"));
    }
    let kept = |entry: Entry| {
        let policy = Policy::parse(entry.policy.as_bytes()).ok()?;
        let domain = Name::parse(&entry.domain)?.as_str().into();
        let policy = Arc::new(StsPolicy { domain, id: entry.id.into(), policy });
        Some(Kept { policy, fetched_s: entry.fetched_s })
    };
    let policies = policies.into_iter().map(kept);
    policies.collect::<Option<Vec<_>>>().ok_or_else(|| "damaged: no policy".to_owned())
}

const VERSION: u32 = 1;
