//! Content-Type and Content-Disposition (RFC 2045 §5, RFC 2183), read forgivingly.

use super::lexer::{Lexer, is_white};

/// A media type with its parameters; all in the case it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaType {
    pub kind: Vec<u8>,
    pub subtype: Vec<u8>,
    pub parameters: Vec<Parameter>,
}

/// `name=value`, quotes removed; the encodings of RFC 2231 stay as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

/// A disposition with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disposition {
    pub kind: Vec<u8>,
    pub parameters: Vec<Parameter>,
}

impl MediaType {
    /// The media type of a field body, or `None` when it has no type and subtype: what it says is
    /// then no better than no field (RFC 2045 §5.2).
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut lexer = Lexer::new(body);
        let kind = word(&mut lexer);
        if !lexer.eat(b'/') {
            return None;
        }
        let subtype = word(&mut lexer);
        if kind.is_empty() || subtype.is_empty() {
            return None;
        }
        Some(Self { kind, subtype, parameters: parameters(&mut lexer) })
    }

    pub fn is(&self, kind: &str, subtype: &str) -> bool {
        self.is_kind(kind) && self.subtype.eq_ignore_ascii_case(subtype.as_bytes())
    }

    pub fn is_kind(&self, kind: &str) -> bool {
        self.kind.eq_ignore_ascii_case(kind.as_bytes())
    }

    /// A whole message in itself (RFC 2046 §5.2.1, RFC 6532 §3.7).
    pub fn is_message(&self) -> bool {
        self.is("message", "rfc822") || self.is("message", "global")
    }

    /// The value of the first parameter of this name.
    pub fn parameter(&self, name: &str) -> Option<&[u8]> {
        let named = |parameter: &&Parameter| parameter.name.eq_ignore_ascii_case(name.as_bytes());
        self.parameters.iter().find(named).map(|parameter| parameter.value.as_slice())
    }
}

impl Disposition {
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut lexer = Lexer::new(body);
        let kind = word(&mut lexer);
        (!kind.is_empty()).then(|| Self { kind, parameters: parameters(&mut lexer) })
    }
}

/// The first word of a field body, comments passed over: a Content-Transfer-Encoding.
pub fn first_word(body: &[u8]) -> Vec<u8> {
    word(&mut Lexer::new(body))
}

/// The words of a list separated by commas: a Content-Language.
pub fn words(body: &[u8]) -> Vec<Vec<u8>> {
    let mut lexer = Lexer::new(body);
    let mut words = Vec::new();
    while lexer.peek().is_some() {
        let word = word(&mut lexer);
        if !word.is_empty() {
            words.push(word);
        }
        lexer.until(|octet| octet == b',');
        lexer.bump();
    }
    words
}

fn word(lexer: &mut Lexer) -> Vec<u8> {
    lexer.skip_cfws(None);
    let ends = |octet| is_white(octet) || matches!(octet, b'/' | b';' | b'(' | b',' | b'"');
    let word = lexer.until(ends).to_vec();
    lexer.skip_cfws(None);
    word
}

/// All parameters up to the end of the field. A missing semicolon between two is forgiven; what has
/// no name is passed over.
fn parameters(lexer: &mut Lexer) -> Vec<Parameter> {
    let mut parameters = Vec::new();
    loop {
        lexer.skip_cfws(None);
        if lexer.eat(b';') {
            continue;
        }
        if lexer.peek().is_none() {
            return parameters;
        }
        let ends = |octet| is_white(octet) || matches!(octet, b'=' | b';' | b'(');
        let name = lexer.until(ends).to_vec();
        lexer.skip_cfws(None);
        if !lexer.eat(b'=') {
            continue;
        }
        lexer.skip_cfws(None);
        let mut value = Vec::new();
        if lexer.eat(b'"') {
            lexer.quoted(&mut value);
        } else {
            value.extend_from_slice(lexer.until(|octet| is_white(octet) || octet == b';'));
        }
        if !name.is_empty() {
            parameters.push(Parameter { name, value });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: Option<&str>) {
        let parsed = MediaType::parse(body.as_bytes()).map(|parsed| {
            let mut text = [&parsed.kind[..], b"/", &parsed.subtype].concat();
            for parameter in &parsed.parameters {
                text.extend([b"; ", &parameter.name[..], b"=", &parameter.value].concat());
            }
            String::from_utf8_lossy(&text).into_owned()
        });
        assert_eq!(parsed.as_deref(), expected, "{body:?}");
    }

    #[test]
    fn media_types_are_read_forgivingly() {
        check(
            " text/plain; charset =us-ascii (Plain text)\n",
            Some("text/plain; charset=us-ascii"),
        );
        check("(a (b)) text (c) / (d) plain (e)", Some("text/plain"));
        check("multipart/mixed; boundary=\"a\r\n b\\\"\"", Some("multipart/mixed; boundary=a b\""));
        check("m/x;boundary=----=_P/1:2", Some("m/x; boundary=----=_P/1:2"));
        check("a/b x=1\r\n\ty=2;;", Some("a/b; x=1; y=2"));
        check("a/b; =v; =; z; q=\"open", Some("a/b; q=open"));
        check("text/plain; name=  \n", Some("text/plain; name="));
        for nothing in ["", "/", "/;charset=x", "text/", "text", ";a=b", "\"text\"/plain"] {
            check(nothing, None);
        }
    }

    #[test]
    fn dispositions_words_and_lists() {
        let parsed = Disposition::parse(b"attachment; filename=x.txt").expect("a disposition");
        assert_eq!(parsed.kind, b"attachment");
        assert_eq!(parsed.parameters[0].value, b"x.txt");
        assert_eq!(Disposition::parse(b" ; x=y"), None);
        assert_eq!(first_word(b" (why) base64 (x)"), b"base64");
        assert_eq!(words(b"en, (c) de ,, fr"), [b"en", b"de", b"fr"]);
        assert!(words(b"").is_empty());
    }
}
