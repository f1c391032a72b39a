//! What structured field bodies are made of: white space, comments, quoted strings, words
//! (RFC 5322 §3.2). Forgiving: what is not closed ends with the field.

/// Reads a field body from the front; folding is white space here.
#[derive(Clone, Debug)]
pub(super) struct Lexer<'f> {
    rest: &'f [u8],
}

impl<'f> Lexer<'f> {
    pub fn new(body: &'f [u8]) -> Self {
        Self { rest: body }
    }

    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    pub fn bump(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// Takes `octet` if it is next.
    pub fn eat(&mut self, octet: u8) -> bool {
        let is_next = self.peek() == Some(octet);
        if is_next {
            self.bump();
        }
        is_next
    }

    /// Passes over white space and comments; whether there were any, the last comment into
    /// `comment`.
    pub fn skip_cfws(&mut self, mut comment: Option<&mut Vec<u8>>) -> bool {
        let before = self.rest.len();
        loop {
            match self.peek() {
                Some(octet) if is_white(octet) => {
                    self.bump();
                }
                Some(b'(') => {
                    self.bump();
                    match comment.as_deref_mut() {
                        Some(comment) => {
                            comment.clear();
                            self.comment(|octet| comment.push(octet));
                        }
                        None => self.comment(|_| {}),
                    }
                }
                _ => return self.rest.len() < before,
            }
        }
    }

    /// The inside of a comment whose parenthesis has been taken; inner ones stay.
    fn comment(&mut self, mut push: impl FnMut(u8)) {
        let mut depth = 1;
        while let Some(octet) = self.bump() {
            match octet {
                b'\r' | b'\n' => continue,
                b'\\' => {
                    if let Some(escaped) = self.bump() {
                        push(escaped);
                    }
                    continue;
                }
                b'(' => depth += 1,
                b')' => {
                    depth -= 1;
                    if depth == 0 {
                        return;
                    }
                }
                _ => {}
            }
            push(octet);
        }
    }

    /// The inside of a quoted string whose first quote has been taken, unescaped.
    pub fn quoted(&mut self, out: &mut Vec<u8>) {
        while let Some(octet) = self.bump() {
            match octet {
                b'"' => return,
                b'\r' | b'\n' => {}
                b'\\' => out.extend(self.bump().filter(|octet| !matches!(octet, b'\r' | b'\n'))),
                octet => out.push(octet),
            }
        }
    }

    /// Octets until `ends` says so, as they stand.
    pub fn until(&mut self, ends: impl Fn(u8) -> bool) -> &'f [u8] {
        let end = self.rest.iter().position(|octet| ends(*octet)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }
}

pub(super) fn is_white(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t' | b'\r' | b'\n')
}
