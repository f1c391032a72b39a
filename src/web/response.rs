//! HTTP/1.1 responses (RFC 9112), as their octets come. Pure.

use super::Failure;
use crate::limits::{HTTP_FIELDS_MAX, HTTP_HEAD_BYTES_MAX, HTTP_INTERIM_RESPONSES_MAX};

/// A response that is whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// As the server says it, parameters included; empty where it says none.
    pub content_type: String,
    /// Other fields, by lower-case names, as far as their values are ASCII.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Reads one response.
pub struct Reader {
    body_bytes_max: usize,
    has_content: bool,
    response: Response,
    part: Part,
    /// What came of a head, or of a line between chunks, that is not whole.
    pending: Vec<u8>,
    interim_count: usize,
}

/// What is read next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Head,
    /// So many octets of content.
    Sized(u64),
    /// Content to the end of the stream.
    Unsized,
    ChunkSize,
    /// So many octets of a chunk, and the line end behind them.
    Chunk(u64),
    ChunkEnd,
    /// Fields behind the last chunk, which say nothing here, and the empty line that ends them.
    Trailer,
}

impl Reader {
    /// `body_bytes_max`: content that is longer is refused.
    pub fn new(body_bytes_max: usize) -> Self {
        Self {
            body_bytes_max,
            has_content: true,
            response: Response::default(),
            part: Part::Head,
            pending: Vec::new(),
            interim_count: 0,
        }
    }

    /// For the response to HEAD, which ends with its head whatever that says.
    pub fn without_content(self) -> Self {
        Self { has_content: false, ..self }
    }

    /// Takes what came. The response once it is whole: what follows is not looked at.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<Option<Response>, Failure> {
        loop {
            let is_whole = match self.part {
                Part::Head => match self.head(&mut bytes)? {
                    Some(part) => {
                        self.part = part;
                        part == Part::Sized(0)
                    }
                    None => return Ok(None),
                },
                Part::Sized(left) => {
                    let left = self.take(&mut bytes, left)?;
                    self.part = Part::Sized(left);
                    left == 0
                }
                Part::Unsized => {
                    self.take(&mut bytes, u64::MAX)?;
                    false
                }
                Part::ChunkSize => {
                    let Some(line) = self.line(&mut bytes)? else { return Ok(None) };
                    self.part = match chunk_bytes(&line)? {
                        0 => Part::Trailer,
                        bytes => Part::Chunk(bytes),
                    };
                    false
                }
                Part::Chunk(left) => {
                    self.part = match self.take(&mut bytes, left)? {
                        0 => Part::ChunkEnd,
                        left => Part::Chunk(left),
                    };
                    false
                }
                Part::ChunkEnd => {
                    let Some(line) = self.line(&mut bytes)? else { return Ok(None) };
                    if !line.is_empty() {
                        return Err(Failure::Malformed);
                    }
                    self.part = Part::ChunkSize;
                    false
                }
                Part::Trailer => {
                    let Some(line) = self.line(&mut bytes)? else { return Ok(None) };
                    line.is_empty()
                }
            };
            if is_whole {
                return Ok(Some(std::mem::take(&mut self.response)));
            }
            if bytes.is_empty() {
                return Ok(None);
            }
        }
    }

    /// The stream has ended: the response, if it may end so.
    pub fn end(&mut self) -> Result<Response, Failure> {
        match self.part {
            Part::Unsized => Ok(std::mem::take(&mut self.response)),
            _ => Err(Failure::Malformed),
        }
    }

    /// Reads the head, and says what follows it; `None` while it is not whole.
    fn head(&mut self, bytes: &mut &[u8]) -> Result<Option<Part>, Failure> {
        let before = self.pending.len();
        let room = HTTP_HEAD_BYTES_MAX - before;
        self.pending.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let mut fields = [httparse::EMPTY_HEADER; HTTP_FIELDS_MAX];
        let mut head = httparse::Response::new(&mut fields);
        let length = match head.parse(&self.pending) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if self.pending.len() < HTTP_HEAD_BYTES_MAX => {
                *bytes = &[];
                return Ok(None);
            }
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return Err(Failure::TooLarge);
            }
            Err(_) => return Err(Failure::Malformed),
        };
        let status = head.code.expect("a whole head has a status");
        let part = match status {
            100..200 => Part::Head,
            _ if !self.has_content => Part::Sized(0),
            204 | 304 => Part::Sized(0),
            _ => framing(head.headers)?,
        };
        if let Some(value) = field(head.headers, "content-type").next() {
            self.response.content_type = String::from_utf8_lossy(value).into_owned();
        }
        let ascii = |it: &httparse::Header<'_>| {
            let value = std::str::from_utf8(it.value).ok().filter(|value| value.is_ascii())?;
            Some((it.name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        self.response.fields = head.headers.iter().filter_map(ascii).collect();
        self.response.fields.retain(|(name, _)| name != "content-type");
        self.response.status = status;
        self.pending.clear();
        // What is beyond the head came just now.
        *bytes = &bytes[length - before..];
        if part == Part::Head {
            self.interim_count += 1;
            self.response = Response::default();
            if self.interim_count > HTTP_INTERIM_RESPONSES_MAX {
                return Err(Failure::TooLarge);
            }
        }
        if let Part::Sized(length) = part
            && length > self.body_bytes_max as u64
        {
            return Err(Failure::TooLarge);
        }
        Ok(Some(part))
    }

    /// Moves at most `left` octets to the content. Returns what is left then.
    fn take(&mut self, bytes: &mut &[u8], left: u64) -> Result<u64, Failure> {
        let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let (taken, rest) = bytes.split_at(count);
        if self.response.body.len() + count > self.body_bytes_max {
            return Err(Failure::TooLarge);
        }
        self.response.body.extend_from_slice(taken);
        *bytes = rest;
        Ok(left - count as u64)
    }

    /// A line without its end; `None` while it is not whole.
    fn line(&mut self, bytes: &mut &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        let end = memchr::memchr(b'\n', bytes);
        let (taken, rest) = bytes.split_at(end.map_or(bytes.len(), |at| at + 1));
        if self.pending.len() + taken.len() > LINE_BYTES_MAX {
            return Err(Failure::TooLarge);
        }
        self.pending.extend_from_slice(taken);
        *bytes = rest;
        if end.is_none() {
            return Ok(None);
        }
        let mut line = std::mem::take(&mut self.pending);
        line.pop();
        match line.pop() {
            Some(b'\r') => Ok(Some(line)),
            _ => Err(Failure::Malformed),
        }
    }
}

/// How the content ends (RFC 9112 §6.3). Two answers to that are none.
fn framing(fields: &[httparse::Header<'_>]) -> Result<Part, Failure> {
    let mut encodings = field(fields, "transfer-encoding");
    let mut lengths = field(fields, "content-length");
    match (encodings.next(), lengths.next()) {
        (None, None) => Ok(Part::Unsized),
        (Some(encoding), None) => {
            let is_chunked = encoding.eq_ignore_ascii_case(b"chunked");
            let is_single = encodings.next().is_none();
            if is_chunked && is_single { Ok(Part::ChunkSize) } else { Err(Failure::Malformed) }
        }
        (None, Some(length)) => {
            if lengths.any(|other| other != length) {
                return Err(Failure::Malformed);
            }
            number(length, 10).map(Part::Sized).ok_or(Failure::Malformed)
        }
        (Some(_), Some(_)) => Err(Failure::Malformed),
    }
}

fn field<'f>(fields: &'f [httparse::Header<'_>], name: &str) -> impl Iterator<Item = &'f [u8]> {
    let named = fields.iter().filter(move |it| it.name.eq_ignore_ascii_case(name));
    named.map(|it| it.value.trim_ascii())
}

/// The size that stands before a chunk; extensions behind it say nothing here.
fn chunk_bytes(line: &[u8]) -> Result<u64, Failure> {
    let size = line.split(|octet| *octet == b';').next().expect("a first part");
    number(size.trim_ascii_end(), 16).ok_or(Failure::Malformed)
}

/// Digits and nothing else.
fn number(text: &[u8], radix: u32) -> Option<u64> {
    let is_number = !text.is_empty() && text.iter().all(|it| char::from(*it).is_digit(radix));
    let text = std::str::from_utf8(text).ok().filter(|_| is_number)?;
    u64::from_str_radix(text, radix).ok()
}

/// Longest line between chunks.
const LINE_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// What a response reads as, whole and cut in two anywhere; the answers must agree.
    fn read(text: &str) -> Result<Option<Response>, &'static str> {
        let at_once = read_in(&[text.as_bytes()]);
        for cut in 0..=text.len() {
            let (first, second) = text.as_bytes().split_at(cut);
            assert_eq!(read_in(&[first, second]), at_once, "cut at {cut}");
        }
        let octets: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(read_in(&octets), at_once, "octet by octet");
        at_once
    }

    fn read_in(parts: &[&[u8]]) -> Result<Option<Response>, &'static str> {
        let name = |failure| match failure {
            Failure::TooLarge => "too large",
            Failure::Malformed => "malformed",
            _ => "another",
        };
        let mut reader = Reader::new(16);
        for part in parts.iter().filter(|part| !part.is_empty()) {
            if let Some(response) = reader.feed(part).map_err(name)? {
                return Ok(Some(Response { fields: Vec::new(), ..response }));
            }
        }
        match reader.part {
            Part::Unsized => {
                let response = reader.end().map_err(name)?;
                Ok(Some(Response { fields: Vec::new(), ..response }))
            }
            _ => {
                assert!(reader.end().is_err(), "cut short");
                Ok(None)
            }
        }
    }

    fn response(status: u16, content_type: &str, body: &str) -> Option<Response> {
        let (content_type, body) = (content_type.to_owned(), body.as_bytes().to_vec());
        Some(Response { status, content_type, fields: Vec::new(), body })
    }

    #[test]
    fn a_response_ends_where_it_says() {
        let check = |text: &str, expected| assert_eq!(read(text), Ok(expected), "{text}");
        let ok = "HTTP/1.1 200 OK\r\n";
        check(&format!("{ok}Content-Length: 3\r\n\r\nabcd"), response(200, "", "abc"));
        check(&format!("{ok}content-length:  0 \r\n\r\n"), response(200, "", ""));
        check(
            &format!("{ok}Content-Type: text/plain; charset=utf-8\r\n\r\nabc"),
            response(200, "text/plain; charset=utf-8", "abc"),
        );
        check(
            &format!(
                "{ok}Transfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n00a;x=y\r\n0123456789\r\n\
                 0\r\nX: y\r\n\r\nz"
            ),
            response(200, "", "abc0123456789"),
        );
        check("HTTP/1.1 404 Not Found\r\n\r\n", response(404, "", ""));
        check("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", response(204, "", ""));
        check(
            "HTTP/1.1 100 Continue\r\nContent-Type: a\r\n\r\nHTTP/1.1 201 Created\r\n\
             Content-Length: 1\r\n\r\na",
            response(201, "", "a"),
        );
        for text in ["", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", ok] {
            check(text, None);
        }
        check(&format!("{ok}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"), None);
    }

    #[test]
    fn fields_are_kept_and_the_answer_to_head_ends_with_them() {
        let text =
            b"HTTP/1.1 200 OK\r\nReplay-Nonce:  x1 \r\nX: \xe4\r\nContent-Length: 900\r\n\r\n";
        let mut reader = Reader::new(16).without_content();
        let response = reader.feed(text).expect("sound").expect("whole");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(response.fields, [pair("replay-nonce", "x1"), pair("content-length", "900")]);
        assert_eq!((response.status, response.body.len()), (200, 0));
    }

    #[test]
    fn what_is_wrong_or_too_long_is_refused() {
        let check = |text: &str, expected| assert_eq!(read(text), Err(expected), "{text}");
        let ok = "HTTP/1.1 200 OK\r\n";
        check("SSH-2.0-x\r\n", "malformed");
        check(&format!("{ok}Content-Length: 1\r\nContent-Length: 2\r\n\r\n"), "malformed");
        check(&format!("{ok}Content-Length: +1\r\n\r\n"), "malformed");
        check(&format!("{ok}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"), "malformed");
        check(&format!("{ok}Transfer-Encoding: gzip, chunked\r\n\r\n"), "malformed");
        check(&format!("{ok}Transfer-Encoding: chunked\r\n\r\n-1\r\n"), "malformed");
        check(&format!("{ok}Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n"), "malformed");
        check(&format!("{ok}Transfer-Encoding: chunked\r\n\r\n1\n"), "malformed");
        check(&format!("{ok}Content-Length: 17\r\n\r\n"), "too large");
        check(&format!("{ok}\r\n01234567890123456"), "too large");
        check(
            &format!("{ok}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n01234567890123456"),
            "too large",
        );
        check(
            &format!("{ok}Transfer-Encoding: chunked\r\n\r\n1;{}", "x".repeat(1100)),
            "too large",
        );
        check(&format!("{ok}{}\r\n", "A: b\r\n".repeat(HTTP_FIELDS_MAX + 1)), "too large");
        let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(HTTP_INTERIM_RESPONSES_MAX + 1);
        check(&interim, "too large");
        let long = format!("{ok}A: {}", "b".repeat(HTTP_HEAD_BYTES_MAX));
        assert_eq!(read_in(&[long.as_bytes()]), Err("too large"));
        assert_eq!(read_in(&long.as_bytes().chunks(1000).collect::<Vec<_>>()), Err("too large"));
    }
}
