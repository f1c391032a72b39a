//! Header fields of other people's tables, where they are at hand. Those tables hold what one
//! library reads, charsets decoded: a hint, not a norm; cases that need decoding are left out.

use serde_json::Value;

use super::address::{Entry, for_each_entry};
use super::date::{days_from_civil, parse_date};
use super::media_type::MediaType;

/// Runs `is_same` over a table of fields and expectations, and prints how many agree.
fn compare(table: &str, is_same: impl Fn(&str, &Value) -> bool) {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/testdata/mime-mail-parser");
    let Ok(text) = std::fs::read_to_string(format!("{directory}/{table}.dev.json")) else {
        println!("{table}: test data absent, 0 cases");
        return;
    };
    let cases: Value = serde_json::from_str(&text).expect("JSON");
    let (mut case_count, mut same_count) = (0, 0);
    for case in cases.as_array().expect("cases") {
        let header = case["header"].as_str().expect("a field");
        if header.contains("=?") || header.contains("*=") {
            continue;
        }
        case_count += 1;
        if is_same(header, &case["expected"]) {
            same_count += 1;
        } else {
            println!("{table}: otherwise than by others: {case}");
        }
    }
    println!("{table}: {case_count} cases, {same_count} as by others");
    assert!(same_count * 4 >= case_count * 3);
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

#[test]
fn media_types_are_mostly_what_others_read() {
    compare("content_type", |header, expected| {
        let Some(parsed) = MediaType::parse(header.as_bytes()) else {
            return expected.is_null() || expected["c_subtype"].is_null();
        };
        let parameters = parsed.parameters.iter().filter(|parameter| !parameter.value.is_empty());
        let parameters: Vec<Value> = parameters
            .map(|it| Value::from(vec![text(&it.name).to_lowercase(), text(&it.value)]))
            .collect();
        let none = Vec::new();
        expected["c_type"] == text(&parsed.kind).to_lowercase()
            && expected["c_subtype"] == text(&parsed.subtype).to_lowercase()
            && parameters == *expected["attributes"].as_array().unwrap_or(&none)
    });
}

#[test]
fn addresses_are_mostly_what_others_read() {
    compare("address", |header, expected| {
        let mut ours = Vec::new();
        for_each_entry(header.as_bytes(), |entry| match entry {
            Entry::GroupStart { name } => ours.push(text(&name)),
            Entry::GroupEnd => {}
            Entry::Mailbox { name, local_part, domain, .. } => {
                let domain = domain.map_or(String::new(), |domain| format!("@{}", text(&domain)));
                let name = name.map_or(String::new(), |name| text(&name));
                ours.push(format!("{name} {}{domain}", text(&local_part)));
            }
        });
        let of_list = |list: &Value| -> Vec<String> {
            let name = |it: &Value| it.as_str().unwrap_or("").to_owned();
            let entries = list.as_array().expect("a list").iter();
            entries.map(|it| format!("{} {}", name(&it["name"]), name(&it["address"]))).collect()
        };
        let theirs = match expected["Group"].as_array() {
            None => of_list(&expected["List"]),
            Some(groups) => groups
                .iter()
                .flat_map(|group| {
                    let name = group["name"].as_str().map(str::to_owned);
                    name.into_iter().chain(of_list(&group["addresses"])).collect::<Vec<_>>()
                })
                .collect(),
        };
        ours == theirs
    });
}

#[test]
fn dates_are_mostly_what_others_read() {
    compare("date", |header, expected| {
        let number = |key: &str| expected[key].as_i64();
        let theirs = || {
            let days = days_from_civil(number("year")?, number("month")?, number("day")?);
            let time = (number("hour")? * 60 + number("minute")?) * 60 + number("second")?;
            let zone = (number("tz_hour")? * 60 + number("tz_minute")?) * 60;
            let zone = if expected["tz_before_gmt"] == true { -zone } else { zone };
            Some(days * 86_400 + time - zone)
        };
        parse_date(header.as_bytes()).map(|date| date.unix_seconds) == theirs()
    });
}
