//! Tables of what is queued by age: a row for each name, a column for each age.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::client::{json_line, printable};
use crate::queue::survey::Ages;

/// Names of the columns.
const COLUMNS: [&str; 7] = ["<1m", "<5m", "<15m", "<1h", "<4h", "<1d", ">=1d"];

pub fn header(by: &str) -> String {
    let mut text = format!("{:<32} {:>9}", by.to_ascii_uppercase(), "TOTAL");
    // Writing into memory does not fail, here and below.
    for column in COLUMNS {
        let _ = write!(text, " {column:>8}");
    }
    text.push('\n');
    text
}

pub fn row(name: &str, ages: &Ages) -> String {
    let name = if name.is_empty() { "-".to_owned() } else { printable(name) };
    let mut text = format!("{name:<32} {:>9}", ages.iter().sum::<u64>());
    for count in ages {
        let _ = write!(text, " {count:>8}");
    }
    text.push('\n');
    text
}

/// Counts by the name of their column.
pub fn by_bound(ages: Ages) -> Value {
    let counts = COLUMNS.iter().zip(ages);
    Value::Object(counts.map(|(column, count)| ((*column).to_owned(), count.into())).collect())
}

pub fn json(by: &str, name: &str, ages: Ages) -> String {
    let mut row = Map::new();
    row.insert(by.to_owned(), name.into());
    row.insert("total".to_owned(), json!(ages.iter().sum::<u64>()));
    row.insert("ages".to_owned(), by_bound(ages));
    json_line(&row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_its_sum_and_a_count_for_each_age() {
        let ages = [1, 0, 0, 2, 0, 0, 40];
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            words(&row("a.test", &ages)),
            ["a.test", "43", "1", "0", "0", "2", "0", "0", "40"]
        );
        assert_eq!(words(&header("domain"))[..3], ["DOMAIN", "TOTAL", "<1m"]);
        assert!(row("", &ages).starts_with("- "));
        let value: Value = serde_json::from_str(&json("domain", "a.test", ages)).expect("JSON");
        assert_eq!((&value["domain"], &value["total"]), (&json!("a.test"), &json!(43)));
        assert_eq!(value["ages"]["<1h"], 2);
    }
}
