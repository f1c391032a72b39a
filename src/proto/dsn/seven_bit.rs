//! A report for a next hop that takes 7-bit content only (RFC 6152 §3). `Pure.`

use super::header_section;

/// A report as `compose` made it, in 7 bits. Text is encoded in quoted-printable; of an original
/// with 8-bit content the header section alone returns, which RFC 3461 §4.3 lets a DSN do. `None`
/// for what is no such report, and for an international one, whose parts are in UTF-8.
pub fn seven_bit(report: &[u8]) -> Option<Vec<u8>> {
    let (fields, parts) = split(report, b"\r\n\r\n")?;
    let boundary = split(fields, b"\tboundary=\"")?.1;
    let boundary = boundary.strip_suffix(b"\"")?;
    let delimiter = [b"\r\n--", boundary].concat();
    let mut parts = Parts { rest: Some(parts), delimiter: &delimiter };
    let (preamble, words, status, original) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_report = parts.next()? == b"--\r\n" && parts.next().is_none();
    if !is_report || !fields.is_ascii() || !preamble.is_ascii() || !status.is_ascii() {
        return None;
    }
    let mut out = Vec::with_capacity(report.len());
    out.extend_from_slice(fields);
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(preamble);
    out.extend_from_slice(&delimiter);
    write_text(
        b"Content-Type: text/plain; charset=utf-8\r\n",
        split(words, b"\r\n\r\n")?.1,
        &mut out,
    );
    out.extend_from_slice(&delimiter);
    out.extend_from_slice(status);
    out.extend_from_slice(&delimiter);
    if original.is_ascii() {
        out.extend_from_slice(original);
    } else {
        let headers = header_section(split(original, b"\r\n\r\n")?.1);
        write_text(b"Content-Type: text/rfc822-headers\r\n", headers, &mut out);
    }
    out.extend_from_slice(&delimiter);
    out.extend_from_slice(b"--\r\n");
    Some(out)
}

/// What stands between delimiters.
struct Parts<'a> {
    rest: Option<&'a [u8]>,
    delimiter: &'a [u8],
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest.take()?;
        match split(rest, self.delimiter) {
            Some((part, rest)) => {
                self.rest = Some(rest);
                Some(part)
            }
            None => Some(rest),
        }
    }
}

/// What stands before and behind the first `separator`.
fn split<'a>(octets: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = memchr::memmem::find(octets, separator)?;
    Some((&octets[..at], &octets[at + separator.len()..]))
}

/// The part behind its delimiter.
fn write_text(content_type: &[u8], body: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(content_type);
    out.extend_from_slice(b"Content-Transfer-Encoding: quoted-printable\r\n\r\n");
    write_quoted_printable(body, out);
}

/// Appends text of CRLF lines in quoted-printable (RFC 2045 §6.7).
fn write_quoted_printable(mut text: &[u8], out: &mut Vec<u8>) {
    loop {
        let (line, rest) = match split(text, b"\r\n") {
            Some((line, rest)) => (line, Some(rest)),
            None => (text, None),
        };
        let mut column = 0;
        for (index, octet) in line.iter().enumerate() {
            let is_last = index + 1 == line.len();
            let is_plain = match octet {
                b' ' | b'\t' => !is_last,
                b'=' => false,
                octet => octet.is_ascii_graphic(),
            };
            let width = if is_plain { 1 } else { 3 };
            // The soft line break has a column of its own.
            if column + width > LINE_BYTES_MAX - 1 {
                out.extend_from_slice(b"=\r\n");
                column = 0;
            }
            column += width;
            match is_plain {
                true => out.push(*octet),
                false => out.extend(format!("={octet:02X}").into_bytes()),
            }
        }
        let Some(rest) = rest else { return };
        out.extend_from_slice(b"\r\n");
        text = rest;
    }
}

/// Without CRLF (RFC 2045 §6.7, rule 5).
const LINE_BYTES_MAX: usize = 76;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mime::transfer::Decoder;

    fn decoded(text: &[u8]) -> Vec<u8> {
        let mut decoder = Decoder::from_name(b"quoted-printable").expect("known");
        let mut out = Vec::new();
        decoder.decode(text, &mut out);
        decoder.finish(&mut out);
        out
    }

    #[test]
    fn quoted_printable_reads_back_in_lines_that_fit() {
        let long = "ü".repeat(60);
        for text in
            ["", "a", "a=b\r\n", "\r\n\r\n", "end \r\n\tx\t", ".\r\n.x", &long, &"x".repeat(200)]
        {
            let mut out = Vec::new();
            write_quoted_printable(text.as_bytes(), &mut out);
            assert!(out.is_ascii(), "{text}");
            let lines = out.split(|octet| *octet == b'\n');
            assert!(lines.clone().all(|line| line.len() <= LINE_BYTES_MAX + 1), "{text}");
            assert!(lines.clone().all(|line| !line.ends_with(b" \r")), "{text}");
            assert_eq!(String::from_utf8(decoded(&out)).as_deref(), Ok(text));
        }
    }
}
