//! The figures of a run, what they say of two servers, and how they are printed.
//!
//! Pure.

use serde_json::{Map, Value, json};

/// One server in one round, or the medians over rounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Messages answered 250 in a second, relaying going on meanwhile.
    pub accepted_per_s: f64,
    /// Recipients at the sink in a second, from the first message to the last one's arrival.
    pub relayed_per_s: f64,
    /// CPU of the server until the last 250, over messages accepted: it includes the relaying done
    /// meanwhile, so a server that postpones relaying looks cheaper here than it is.
    pub cpu_us_per_accepted: f64,
    /// CPU of the server until the sink had everything, over recipients relayed: the whole cost.
    pub cpu_us_per_relayed: f64,
    /// Last octet of content to the 250; in an open loop, intended start to the 250.
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
    /// Flush requests of the disk over messages accepted; `None` where nobody counts them.
    pub flushes_per_message: Option<f64>,
    /// Largest proportional memory seen (PSS: shared pages in shares).
    pub rss_bytes: f64,
    /// The same as summed resident memory, shared pages counted by each process.
    pub rss_sum_bytes: f64,
    pub process_count: f64,
    pub accepted: f64,
    pub lost: f64,
    pub duplicated: f64,
}

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Better {
    More,
    Less,
}

impl Figures {
    /// Name, value, and which way is good.
    fn entries(&self) -> [(&'static str, Option<f64>, Better); 16] {
        use Better::{Less, More};
        [
            ("accepted_per_s", Some(self.accepted_per_s), More),
            ("relayed_per_s", Some(self.relayed_per_s), More),
            ("cpu_us_per_accepted", Some(self.cpu_us_per_accepted), Less),
            ("cpu_us_per_relayed", Some(self.cpu_us_per_relayed), Less),
            ("p50_us", Some(self.p50_us), Less),
            ("p90_us", Some(self.p90_us), Less),
            ("p99_us", Some(self.p99_us), Less),
            ("p999_us", Some(self.p999_us), Less),
            ("max_us", Some(self.max_us), Less),
            ("flushes_per_message", self.flushes_per_message, Less),
            ("rss_bytes", Some(self.rss_bytes), Less),
            ("rss_sum_bytes", Some(self.rss_sum_bytes), Less),
            ("process_count", Some(self.process_count), Less),
            ("accepted", Some(self.accepted), More),
            ("lost", Some(self.lost), Less),
            ("duplicated", Some(self.duplicated), Less),
        ]
    }

    fn from_values(values: [Option<f64>; 16]) -> Self {
        let value = |index: usize| values[index].unwrap_or(0.0);
        Self {
            accepted_per_s: value(0),
            relayed_per_s: value(1),
            cpu_us_per_accepted: value(2),
            cpu_us_per_relayed: value(3),
            p50_us: value(4),
            p90_us: value(5),
            p99_us: value(6),
            p999_us: value(7),
            max_us: value(8),
            flushes_per_message: values[9],
            rss_bytes: value(10),
            rss_sum_bytes: value(11),
            process_count: value(12),
            accepted: value(13),
            lost: value(14),
            duplicated: value(15),
        }
    }

    /// Medians over rounds; lost and duplicated are sums, for one loss is one too many.
    pub fn over_rounds(rounds: &[Self]) -> Self {
        assert!(!rounds.is_empty());
        let columns: Vec<_> = rounds.iter().map(Self::entries).collect();
        let values = std::array::from_fn(|index| {
            let column: Option<Vec<f64>> = columns.iter().map(|row| row[index].1).collect();
            match columns[0][index].0 {
                "lost" | "duplicated" | "accepted" => column.map(|column| column.iter().sum()),
                _ => column.map(median),
            }
        });
        Self::from_values(values)
    }

    pub fn to_json(&self) -> Map<String, Value> {
        self.entries()
            .map(|(name, value, _)| (name.to_owned(), number(value)))
            .into_iter()
            .collect()
    }
}

/// What two servers' rounds say, paired: medians, ratios, and the spread of the ratios.
#[derive(Clone, Debug)]
pub struct Comparison {
    pub ratio: Map<String, Value>,
    /// Smallest and largest ratio of a round.
    pub ratio_spread: Map<String, Value>,
}

/// Ratios of paired rounds, ours better above 1; null where one would divide by nothing.
pub fn compare(ours: &[Figures], peers: &[Figures]) -> Comparison {
    assert_eq!(ours.len(), peers.len());
    let (mut ratios, mut spreads) = (Map::new(), Map::new());
    for (index, (name, _, better)) in Figures::default().entries().into_iter().enumerate() {
        let round_ratio = |(our, peer): (&Figures, &Figures)| {
            ratio(our.entries()[index].1?, peer.entries()[index].1?, better)
        };
        let found: Vec<f64> = ours.iter().zip(peers).filter_map(round_ratio).collect();
        if found.is_empty() {
            ratios.insert(name.to_owned(), Value::Null);
            spreads.insert(name.to_owned(), Value::Null);
            continue;
        }
        spreads.insert(name.to_owned(), spread_of(&found));
        ratios.insert(name.to_owned(), number(Some(median(found))));
    }
    Comparison { ratio: ratios, ratio_spread: spreads }
}

/// Smallest and largest value of each figure over the rounds.
pub fn spread(rounds: &[Figures]) -> Map<String, Value> {
    let mut spreads = Map::new();
    for (index, (name, ..)) in Figures::default().entries().into_iter().enumerate() {
        let found: Vec<f64> = rounds.iter().filter_map(|round| round.entries()[index].1).collect();
        let spread = if found.is_empty() { Value::Null } else { spread_of(&found) };
        spreads.insert(name.to_owned(), spread);
    }
    spreads
}

/// A table of one server, or of two with the ratios.
pub fn table(name: &str, ours: &[Figures], peer: Option<(&str, &[Figures])>) -> String {
    let own = Figures::over_rounds(ours);
    let mut lines = Vec::new();
    let Some((peer_name, peers)) = peer else {
        lines.push(format!("{:<22}{name:>14}", ""));
        for (figure, value, _) in own.entries() {
            lines.push(format!("{figure:<22}{:>14}", text(value)));
        }
        return lines.join("\n");
    };
    let theirs = Figures::over_rounds(peers);
    let comparison = compare(ours, peers);
    lines.push(format!("{:<22}{name:>14}{peer_name:>14}   ratio (ours better: > 1)", ""));
    for ((figure, value, _), (_, peer_value, _)) in own.entries().iter().zip(theirs.entries()) {
        let ratio = text(comparison.ratio[*figure].as_f64());
        let spread = &comparison.ratio_spread[*figure];
        let rounds = match (spread["min"].as_f64(), spread["max"].as_f64()) {
            (Some(min), Some(max)) if ours.len() > 1 => {
                format!("  rounds {} to {}", text(Some(min)), text(Some(max)))
            }
            _ => String::new(),
        };
        let (value, peer_value) = (text(*value), text(peer_value));
        lines.push(format!("{figure:<22}{value:>14}{peer_value:>14}{ratio:>8}{rounds}"));
    }
    lines.join("\n")
}

fn ratio(ours: f64, peers: f64, better: Better) -> Option<f64> {
    let (above, below) = if better == Better::More { (ours, peers) } else { (peers, ours) };
    if above == below {
        return Some(1.0);
    }
    (below != 0.0).then(|| above / below)
}

fn median(mut values: Vec<f64>) -> f64 {
    assert!(!values.is_empty());
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

fn spread_of(values: &[f64]) -> Value {
    let min = values.iter().copied().fold(f64::INFINITY, f64::min);
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    json!({ "min": number(Some(min)), "max": number(Some(max)) })
}

/// Four significant digits are more than a measurement has.
fn number(value: Option<f64>) -> Value {
    let Some(value) = value.filter(|value| value.is_finite()) else {
        return Value::Null;
    };
    if value == value.trunc() && value.abs() < 1e15 {
        return json!(value as i64);
    }
    let digits = (3 - value.abs().log10().floor() as i32).clamp(0, 12);
    let scale = 10_f64.powi(digits);
    json!((value * scale).round() / scale)
}

fn text(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value.abs() >= 100.0 || value == value.trunc() => format!("{value:.0}"),
        Some(value) => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(accepted_per_s: f64, cpu_us_per_relayed: f64) -> Figures {
        Figures { accepted_per_s, cpu_us_per_relayed, ..Figures::default() }
    }

    #[test]
    fn the_promised_keys_are_there() {
        let json = figures(1.0, 2.0).to_json();
        for key in [
            "accepted_per_s",
            "relayed_per_s",
            "cpu_us_per_accepted",
            "cpu_us_per_relayed",
            "p50_us",
            "p99_us",
            "flushes_per_message",
            "rss_bytes",
            "lost",
            "duplicated",
        ] {
            assert!(json.contains_key(key), "{key}");
        }
        let comparison = compare(&[figures(1.0, 2.0)], &[figures(1.0, 2.0)]);
        assert!(json.keys().all(|key| comparison.ratio.contains_key(key)));
    }

    #[test]
    fn ours_better_is_above_one_whichever_way_is_good() {
        let ours = [figures(9_000.0, 50.0), figures(11_000.0, 40.0), figures(10_000.0, 45.0)];
        let peers = [figures(900.0, 2_000.0), figures(1_000.0, 2_000.0), figures(500.0, 1_800.0)];
        let comparison = compare(&ours, &peers);
        assert_eq!(comparison.ratio["accepted_per_s"], json!(11));
        assert_eq!(comparison.ratio["cpu_us_per_relayed"], json!(40));
        assert_eq!(comparison.ratio_spread["accepted_per_s"], json!({"min": 10, "max": 20}));
        assert_eq!(comparison.ratio["lost"], json!(1));
        assert_eq!(comparison.ratio["flushes_per_message"], Value::Null);
    }

    #[test]
    fn a_loss_in_any_round_shows() {
        let lossy = Figures { lost: 1.0, accepted: 10.0, ..Figures::default() };
        let clean = Figures { accepted: 10.0, ..Figures::default() };
        let all = Figures::over_rounds(&[clean.clone(), lossy, clean]);
        assert_eq!((all.lost, all.accepted), (1.0, 30.0));
    }

    #[test]
    fn numbers_keep_four_significant_digits() {
        let check = |value: f64, expected: Value| assert_eq!(number(Some(value)), expected);
        check(12345.678, json!(12346.0));
        check(0.000_123_456, json!(0.000_123_5));
        check(3.0, json!(3));
        check(f64::NAN, Value::Null);
    }
}
