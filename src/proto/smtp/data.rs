//! Content as it comes over the wire: transparency, end of data, line ends.
//!
//! Only CRLF.CRLF ends DATA (RFC 5321 §4.1.1.4). A CR or LF that is not part of a CRLF is content
//! that no other server may see as it is: it is refused, or made a CRLF, and never begins a line
//! for the purposes of transparency. Ordinary content is handed out in the longest runs that can be
//! borrowed from the input.

/// What happens to a CR or LF that is not part of a CRLF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BareNewline {
    Refuse,
    Normalise,
}

/// How the end of content is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// DATA: by CRLF.CRLF, and lines are dot-stuffed.
    Dot,
    /// BDAT: by length (RFC 3030); nothing is stuffed.
    Length,
}

/// One step through content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'i> {
    /// Content, without dot-stuffing.
    Piece(&'i [u8]),
    /// CRLF.CRLF has been consumed.
    End,
    /// All input is consumed.
    NeedInput,
}

/// Decoder for the content of one message.
#[derive(Clone, Debug)]
pub struct ContentDecoder {
    framing: Framing,
    bare_newline: BareNewline,
    state: State,
    /// Some line of the decoded content begins with a dot.
    pub leading_dot: bool,
    /// Some octet is above 127.
    pub eight_bit: bool,
    /// A bare CR or LF was met.
    pub has_bare_newline: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// After CRLF, or at the very beginning.
    LineStart,
    /// After a bare newline that became a CRLF: a dot here is not stuffing.
    SoftLineStart,
    /// In a line; the octet before is not a CR.
    Line,
    /// In a line after a CR.
    Cr,
    /// After a dot at the start of a line.
    Dot,
    /// After a dot at the start of a line and a CR.
    DotCr,
}

impl ContentDecoder {
    pub fn new(framing: Framing, bare_newline: BareNewline) -> Self {
        Self {
            framing,
            bare_newline,
            state: State::LineStart,
            leading_dot: false,
            eight_bit: false,
            has_bare_newline: false,
        }
    }

    /// Takes from the front of `input`; returns how much and what it was.
    pub fn next<'i>(&mut self, input: &'i [u8]) -> (usize, Step<'i>) {
        let mut at = 0;
        loop {
            let Some(octet) = input.get(at) else {
                return (at, Step::NeedInput);
            };
            match (self.state, octet) {
                (State::LineStart, b'.') if self.framing == Framing::Dot => {
                    at += 1;
                    self.state = State::Dot;
                }
                (State::LineStart | State::SoftLineStart, octet) => {
                    self.leading_dot |= *octet == b'.';
                    self.state = State::Line;
                }
                (State::Dot, b'\r') => {
                    at += 1;
                    self.state = State::DotCr;
                }
                (State::Dot, octet) => {
                    // The first dot was stuffing; a second one begins the line.
                    self.leading_dot |= *octet == b'.';
                    self.state = State::Line;
                }
                (State::DotCr, b'\n') => {
                    self.state = State::LineStart;
                    return (at + 1, Step::End);
                }
                (State::Cr, b'\n') => {
                    self.state = State::LineStart;
                    return (at + 1, Step::Piece(b"\r\n"));
                }
                (State::Cr | State::DotCr, _) => return (at, self.on_bare_newline()),
                (State::Line, _) => {
                    let run = self.take_run(&input[at..]);
                    if run > 0 {
                        return (at + run, Step::Piece(&input[at..at + run]));
                    }
                    at += 1;
                    if *octet == b'\n' {
                        return (at, self.on_bare_newline());
                    }
                    self.state = State::Cr;
                }
            }
        }
    }

    /// Content has come to its end by length: what is still missing of it.
    pub fn finish(&mut self) -> &'static [u8] {
        let rest: &[u8] = match self.state {
            State::LineStart | State::SoftLineStart => b"",
            State::Cr | State::DotCr => {
                self.has_bare_newline = true;
                b"\r\n"
            }
            State::Line | State::Dot => b"\r\n",
        };
        self.state = State::LineStart;
        rest
    }

    fn on_bare_newline(&mut self) -> Step<'static> {
        self.has_bare_newline = true;
        self.state = match self.bare_newline {
            BareNewline::Refuse => State::Line,
            BareNewline::Normalise => State::SoftLineStart,
        };
        Step::Piece(b"\r\n")
    }

    /// Length of the run at the front of `input` that is content as it stands: whole lines and the
    /// beginning of one. The state is the one behind the run.
    fn take_run(&mut self, input: &[u8]) -> usize {
        if input[0] == b'\n' {
            return 0;
        }
        let (end, eight_bit) = find_break(input);
        self.eight_bit |= eight_bit;
        let (run, state) = match input[end - 1] {
            b'\n' => (end, State::LineStart),
            // What it belongs to is the next step's business.
            b'\r' => (end - 1, State::Line),
            _ => (end, State::Line),
        };
        if run > 0 {
            self.state = state;
        }
        run
    }
}

/// Index of the first octet behind the first that does not go with the one before it, or the end;
/// and whether an octet before it is above 127.
fn find_break(input: &[u8]) -> (usize, bool) {
    let mut all = input[0];
    let mut start = 1;
    while start < input.len() {
        let end = input.len().min(start + BLOCK_BYTES);
        let (before, block) = (&input[start - 1..end - 1], &input[start..end]);
        // No early exit: this becomes vector code.
        let (mut is_broken, mut of_block) = (false, 0);
        for (before, octet) in before.iter().zip(block) {
            is_broken |= is_break(*before, *octet);
            of_block |= *octet;
        }
        if is_broken {
            let mut pairs = before.iter().zip(block);
            let index = pairs.position(|(before, octet)| is_break(*before, *octet));
            let index = index.expect("seen in this block");
            all |= block[..index].iter().fold(0, |all, octet| all | octet);
            return (start + index, all >= 0x80);
        }
        all |= of_block;
        start = end;
    }
    (input.len(), all >= 0x80)
}

/// Whether a run must end between two octets: a CR or LF without the other, or a dot that begins a
/// line.
fn is_break(before: u8, octet: u8) -> bool {
    ((before == b'\r') != (octet == b'\n')) | ((before == b'\n') & (octet == b'.'))
}

/// What is looked at in one go; a block with a break is looked through again.
const BLOCK_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    /// Decoded content, octets consumed, and whether the end was met; input cut into `cuts`.
    fn decode(
        input: &[u8],
        cuts: &[usize],
        framing: Framing,
        bare_newline: BareNewline,
    ) -> (Vec<u8>, usize, bool, ContentDecoder) {
        let mut decoder = ContentDecoder::new(framing, bare_newline);
        let mut out = Vec::new();
        let (mut consumed, mut start) = (0, 0);
        for end in cuts.iter().copied().chain([input.len()]) {
            let mut piece = &input[start..end];
            start = end;
            loop {
                let (taken, step) = decoder.next(piece);
                piece = &piece[taken..];
                consumed += taken;
                match step {
                    Step::Piece(content) => out.extend_from_slice(content),
                    Step::End => return (out, consumed, true, decoder),
                    Step::NeedInput => break,
                }
            }
        }
        (out, consumed, false, decoder)
    }

    /// The same, one octet at a time and by the letter.
    fn reference(input: &[u8], framing: Framing, normalise: bool) -> (Vec<u8>, usize, bool, bool) {
        let mut out = Vec::new();
        let (mut at, mut line_start, mut bare) = (0, true, false);
        while at < input.len() {
            let rest = &input[at..];
            if framing == Framing::Dot && line_start && rest[0] == b'.' {
                if rest.starts_with(b".\r\n") {
                    return (out, at + 3, true, bare);
                }
                at += 1;
                line_start = false;
            } else if rest.starts_with(b"\r\n") {
                out.extend_from_slice(b"\r\n");
                (at, line_start) = (at + 2, true);
            } else if rest[0] == b'\r' || rest[0] == b'\n' {
                bare = true;
                if normalise {
                    out.extend_from_slice(b"\r\n");
                }
                (at, line_start) = (at + 1, false);
            } else {
                out.push(rest[0]);
                (at, line_start) = (at + 1, false);
            }
        }
        (out, at, false, bare)
    }

    #[test]
    fn every_cut_of_pseudo_random_content_decodes_as_the_reference_says() {
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        for round in 0..20_000 {
            let length = next(24) as usize;
            let input: Vec<u8> = (0..length)
                .map(|_| [b'\r', b'\n', b'.', b'a', 0x80][next(5) as usize])
                // A pair in step makes whole lines likely.
                .flat_map(|octet| {
                    if octet == b'\r' && round % 2 == 0 { vec![b'\r', b'\n'] } else { vec![octet] }
                })
                .collect();
            let framing = if round % 3 == 0 { Framing::Length } else { Framing::Dot };
            let expected = reference(&input, framing, true);
            let mut cuts: Vec<usize> =
                (0..next(4)).map(|_| next(input.len() as u64 + 1) as usize).collect();
            cuts.sort_unstable();
            let (out, consumed, ended, decoder) =
                decode(&input, &cuts, framing, BareNewline::Normalise);
            // A CR at the very end is not judged yet.
            let undecided = !ended && input.ends_with(b"\r");
            if !undecided {
                assert_eq!(out, expected.0, "{input:?} {cuts:?}");
                assert_eq!(decoder.has_bare_newline, expected.3, "{input:?} {cuts:?}");
                let lines = out.split(|octet| *octet == b'\n');
                let leading_dot = lines.clone().any(|line| line.first() == Some(&b'.'));
                assert_eq!(decoder.leading_dot, leading_dot, "{input:?} {cuts:?}");
                assert_eq!(decoder.eight_bit, out.contains(&0x80), "{input:?}");
            }
            assert_eq!((consumed, ended), (expected.1, expected.2), "{input:?} {cuts:?}");
        }
    }

    #[test]
    fn ordinary_content_comes_in_one_piece() {
        let input = b"Subject: x\r\n\r\nbody\r\nmore\r\n";
        let mut decoder = ContentDecoder::new(Framing::Dot, BareNewline::Refuse);
        assert_eq!(decoder.next(input), (input.len(), Step::Piece(input)));
        assert_eq!(decoder.next(b".\r\n"), (3, Step::End));
    }

    #[test]
    fn content_by_length_ends_in_crlf() {
        let cases: [(&[u8], &[u8], bool); 4] = [
            (b"a\r\n", b"", false),
            (b"a", b"\r\n", false),
            (b"a\r", b"\r\n", true),
            (b"", b"", false),
        ];
        for (input, expected, bare) in cases {
            let (_, _, _, mut decoder) = decode(input, &[], Framing::Length, BareNewline::Refuse);
            assert_eq!(decoder.finish(), expected, "{input:?}");
            assert_eq!(decoder.has_bare_newline, bare, "{input:?}");
        }
    }
}
