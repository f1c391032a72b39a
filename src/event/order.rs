//! An order of an operator, and what came of it.

use std::io::Write;

use super::outcome::{Escaped, Format};

/// What is kept of an order.
pub struct OrderRecord<'a> {
    /// Unix milliseconds.
    pub time_ms: u64,
    /// The user who gave it.
    pub by: &'a str,
    /// The order in a word or two.
    pub order: &'a str,
    /// Which mail it was for, in words.
    pub mail: &'a str,
    /// What came of it, or why it ended early.
    pub result: &'a str,
}

impl OrderRecord<'_> {
    /// Appends the record as one line.
    pub fn write(&self, format: Format, out: &mut Vec<u8>) {
        let time = self.time_ms as f64 / 1000.0;
        let [by, order, mail, result] = [self.by, self.order, self.mail, self.result].map(Escaped);
        // Writing into memory does not fail.
        let _ = match format {
            Format::Text => writeln!(
                out,
                "time={time:.3} order=\"{order}\" by=\"{by}\" mail=\"{mail}\" result=\"{result}\"",
            ),
            Format::Json => writeln!(
                out,
                "{{\"time\":{time:.3},\"order\":\"{order}\",\"by\":\"{by}\",\"mail\":\"{mail}\",\
                 \"result\":\"{result}\"}}",
            ),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_one_line_whatever_its_words() {
        let record = OrderRecord {
            time_ms: 1_500,
            by: "root",
            order: "suspend",
            mail: "tenant=a\n\"b\"",
            result: "suspension 1",
        };
        let mut text = Vec::new();
        record.write(Format::Text, &mut text);
        let expected = "time=1.500 order=\"suspend\" by=\"root\" mail=\"tenant=a\\n\\\"b\\\"\" \
                        result=\"suspension 1\"\n";
        assert_eq!(String::from_utf8_lossy(&text), expected);
        let mut json = Vec::new();
        record.write(Format::Json, &mut json);
        let value: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!(value["mail"], "tenant=a\n\"b\"");
    }
}
