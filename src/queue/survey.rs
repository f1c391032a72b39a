//! How old what is queued is, by state or by what it is part of.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::index::TaskState;
use super::steering::Sites;
use super::store::Queue;
use crate::limits::SURVEY_ROWS_MAX;
use crate::runtime::{clock, task};

/// What the rows of a survey are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SurveyBy {
    State,
    Domain,
    Site,
    Tenant,
    Campaign,
}

/// Tasks by age, the youngest first: below each of `AGE_BOUNDS_MS`, and older.
pub type Ages = [u64; AGE_BOUNDS_MS.len() + 1];

/// Rows by name.
pub type Survey = HashMap<String, Ages>;

/// Milliseconds since acceptance, or since the release where that is later.
pub const AGE_BOUNDS_MS: [u64; 6] =
    [60_000, 5 * 60_000, 15 * 60_000, 3_600_000, 4 * 3_600_000, 24 * 3_600_000];

/// The row of what is beyond `limits::SURVEY_ROWS_MAX` names.
pub const OTHERS: &str = "(others)";

impl TaskState {
    pub fn as_str(self) -> &'static str {
        match self {
            TaskState::Ready => "ready",
            TaskState::InFlight => "in flight",
            TaskState::Delayed => "delayed",
            TaskState::Held => "held",
        }
    }
}

/// Adds a survey to another.
pub fn merge(into: &mut Survey, from: Survey) {
    for (name, ages) in from {
        let row = into.entry(name).or_default();
        row.iter_mut().zip(ages).for_each(|(count, more)| *count += more);
    }
}

impl Queue {
    /// Counts every task, a few at a time.
    pub async fn survey(&self, by: SurveyBy, sites: &dyn Sites) -> Survey {
        let mut survey = Survey::new();
        let mut next = Some(0);
        while let Some(from) = next {
            next = self.survey_some(from, by, sites, &mut survey);
            task::yield_now().await;
        }
        survey
    }

    /// Counts the next few tasks. Returns where to go on.
    fn survey_some(
        &self,
        from: u32,
        by: SurveyBy,
        sites: &dyn Sites,
        survey: &mut Survey,
    ) -> Option<u32> {
        let now_ms = clock::unix_ms();
        let index = self.inner.index.borrow();
        index.visit_tasks(from, TASKS_AT_ONCE, |task, entry, domain, stream| {
            let age = age_of(now_ms.saturating_sub(index.since_ms(task.slot)));
            let site;
            let name = match by {
                SurveyBy::State => entry.state().as_str(),
                SurveyBy::Domain => domain,
                SurveyBy::Tenant => &stream.tenant,
                SurveyBy::Campaign => &stream.campaign,
                SurveyBy::Site => {
                    site = sites.site_of(&index.flow_at(task.slot)).unwrap_or_default();
                    &site
                }
            };
            count(survey, name, age);
        })
    }
}

fn age_of(age_ms: u64) -> usize {
    AGE_BOUNDS_MS.iter().take_while(|bound_ms| age_ms >= **bound_ms).count()
}

fn count(survey: &mut Survey, name: &str, age: usize) {
    if let Some(row) = survey.get_mut(name) {
        row[age] += 1;
        return;
    }
    let name = if survey.len() < SURVEY_ROWS_MAX { name } else { OTHERS };
    survey.entry(name.to_owned()).or_default()[age] += 1;
}

/// Tasks looked at before others get a turn.
const TASKS_AT_ONCE: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_falls_below_one_bound() {
        let ages = [0, 59_999, 60_000, 299_999, 3_600_000, 86_399_999, 86_400_000, u64::MAX];
        assert_eq!(ages.map(age_of), [0, 0, 1, 1, 4, 5, 6, 6]);
    }

    #[test]
    fn names_beyond_the_bound_share_a_row_and_rows_add_up() {
        let mut survey = Survey::new();
        for number in 0..SURVEY_ROWS_MAX + 5 {
            count(&mut survey, &number.to_string(), 0);
        }
        count(&mut survey, "7", 3);
        assert_eq!(survey[OTHERS][0], 5);
        assert_eq!(survey["7"], [1, 0, 0, 1, 0, 0, 0]);
        let mut sum = survey.clone();
        merge(&mut sum, survey);
        assert_eq!(sum["7"], [2, 0, 0, 2, 0, 0, 0]);
    }
}
