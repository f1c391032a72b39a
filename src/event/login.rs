//! A login that was refused.

use std::io::Write;
use std::net::IpAddr;

use super::outcome::{Escaped, Format};

/// Who was not let in, and why.
pub struct RefusedLogin<'a> {
    /// Unix milliseconds.
    pub time_ms: u64,
    pub protocol: &'a str,
    pub client: IpAddr,
    /// As the client said it; empty where it did not come to that.
    pub name: &'a str,
    /// Of SASL, or the command that said the password.
    pub mechanism: &'a str,
    pub reason: &'a str,
    /// Records that were left out before this one.
    pub left_out: u64,
}

impl RefusedLogin<'_> {
    /// Appends the record as one line.
    pub fn write(&self, format: Format, out: &mut Vec<u8>) {
        let time = self.time_ms as f64 / 1000.0;
        let Self { protocol, client, mechanism, reason, left_out, .. } = self;
        let name = Escaped(self.name);
        // Writing into memory does not fail.
        let _ = match format {
            Format::Text => writeln!(
                out,
                "time={time:.3} login=refused protocol={protocol} client={client} \
                 mechanism={mechanism} reason={reason} left_out={left_out} name=\"{name}\"",
            ),
            Format::Json => writeln!(
                out,
                "{{\"time\":{time:.3},\"login\":\"refused\",\"protocol\":\"{protocol}\",\
                 \"client\":\"{client}\",\"mechanism\":\"{mechanism}\",\"reason\":\"{reason}\",\
                 \"left_out\":{left_out},\"name\":\"{name}\"}}",
            ),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_login_is_one_line_whatever_its_name() {
        let record = RefusedLogin {
            time_ms: 1_500,
            protocol: "imap",
            client: [192, 0, 2, 1].into(),
            name: "jo\r\ntime=0 client=192.0.2.9 \"\\",
            mechanism: "PLAIN",
            reason: "credentials",
            left_out: 3,
        };
        let mut text = Vec::new();
        record.write(Format::Text, &mut text);
        let expected = "time=1.500 login=refused protocol=imap client=192.0.2.1 mechanism=PLAIN \
                        reason=credentials left_out=3 \
                        name=\"jo\\u000d\\ntime=0 client=192.0.2.9 \\\"\\\\\"\n";
        assert_eq!(String::from_utf8_lossy(&text), expected);
        let mut json = Vec::new();
        record.write(Format::Json, &mut json);
        let value: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!((&value["name"], &value["client"]), (&record.name.into(), &"192.0.2.1".into()));
    }
}
