//! A message's octets as the next hop gets them, from the stored bytes. `Pure.`

/// How content goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The stored bytes as they are: BDAT, or DATA without a leading dot anywhere.
    Verbatim,
    /// A second dot before each leading one (RFC 5321 §4.5.2).
    Stuffed,
}

/// Cuts content that comes in pieces into slices to write, dots added where they are due.
pub(super) struct Stuffing {
    form: Form,
    /// The octets so far end a line, or there are none.
    at_line_start: bool,
    /// They end in a CR.
    after_cr: bool,
}

impl Stuffing {
    pub fn new(form: Form) -> Self {
        Self { form, at_line_start: true, after_cr: false }
    }

    /// Appends the slices of the next piece.
    pub fn slices<'c>(&mut self, piece: &'c [u8], slices: &mut Vec<&'c [u8]>) {
        if piece.is_empty() {
            return;
        }
        if self.form == Form::Verbatim {
            slices.push(piece);
            return;
        }
        let mut start = 0;
        if self.at_line_start && piece[0] == b'.' {
            slices.push(b".");
        }
        // The CR of a CRLF may have come with the piece before.
        if self.after_cr && piece.starts_with(b"\n.") {
            slices.push(&piece[..1]);
            slices.push(b".");
            start = 1;
        }
        for at in memchr::memmem::find_iter(piece, b"\r\n.") {
            slices.push(&piece[start..at + 2]);
            slices.push(b".");
            start = at + 2;
        }
        slices.push(&piece[start..]);
        self.at_line_start =
            piece.ends_with(b"\r\n") || (self.after_cr && piece.len() == 1 && piece == b"\n");
        self.after_cr = piece.ends_with(b"\r");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_is_added_at_every_line_start_wherever_the_pieces_are_cut() {
        let content = b".first\r\n..\r\nx.\r\n\r\n.\r\na\r\n.b\r\n";
        let expected = b"..first\r\n...\r\nx.\r\n\r\n..\r\na\r\n..b\r\n";
        for one in 0..content.len() {
            for two in one..content.len() {
                let mut stuffing = Stuffing::new(Form::Stuffed);
                let mut slices = Vec::new();
                for piece in [&content[..one], &content[one..two], &content[two..]] {
                    stuffing.slices(piece, &mut slices);
                }
                assert_eq!(slices.concat(), expected, "cut at {one} and {two}");
            }
        }
    }
}
