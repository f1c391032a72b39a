//! COMPRESS=DEFLATE (RFC 4978), in little memory: what an idle session keeps is the window that its
//! client may refer to, as far as anything has been said.
//!
//! What we send refers to nothing before its own piece, so one compressor serves all sessions of an
//! executor. `Pure.`

use std::cell::RefCell;
use std::io;

use flate2::{Compress, Compression, FlushCompress, Status};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{
    BlockBoundaryState, DecompressorOxide, decompress, inflate_flags,
};

/// What a client sends, made plain.
pub struct Inflate {
    decoder: Decoder,
    /// The last octets, overwritten from its front once it is as long as the format allows.
    window: Vec<u8>,
    at: usize,
    /// What was taken means more than there was room for.
    has_more: bool,
}

enum Decoder {
    /// With its tables, 11 KB.
    Within(Box<DecompressorOxide>),
    /// Between two blocks there are no tables to keep.
    Between(Box<BlockBoundaryState>),
    Over,
}

/// What came is not compressed, or the client has ended the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unusable;

impl From<Unusable> for io::Error {
    fn from(_: Unusable) -> Self {
        io::ErrorKind::InvalidData.into()
    }
}

impl Default for Inflate {
    fn default() -> Self {
        Self {
            decoder: Decoder::Within(Box::default()),
            window: vec![0; WINDOW_BYTES_MIN],
            at: 0,
            has_more: false,
        }
    }
}

impl Inflate {
    /// Takes octets from the front of `input` and appends what they mean to `out`, 32 KiB at the
    /// most. Returns how many were taken: come again until it is all of them and nothing was made.
    pub fn inflate(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Unusable> {
        if input.is_empty() && !self.has_more {
            return Ok(0);
        }
        if self.at == self.window.len() {
            if self.window.len() < WINDOW_BYTES_MAX {
                self.window.resize(2 * self.at, 0);
            } else {
                self.at = 0;
            }
        }
        if let Decoder::Between(state) = &self.decoder {
            let decoder = DecompressorOxide::from_block_boundary_state(state);
            self.decoder = Decoder::Within(Box::new(decoder));
        }
        let Decoder::Within(decoder) = &mut self.decoder else { return Err(Unusable) };
        let (status, taken, made) =
            decompress(decoder, input, &mut self.window, self.at, INFLATE_FLAGS);
        out.extend_from_slice(&self.window[self.at..self.at + made]);
        self.at += made;
        self.has_more = status == TINFLStatus::HasMoreOutput;
        match status {
            TINFLStatus::NeedsMoreInput | TINFLStatus::HasMoreOutput => {}
            TINFLStatus::BlockBoundary => {
                if let Some(state) = decoder.block_boundary_state() {
                    self.decoder = Decoder::Between(Box::new(state));
                }
            }
            TINFLStatus::Done => self.decoder = Decoder::Over,
            _ => return Err(Unusable),
        }
        Ok(taken)
    }

    /// Memory in bytes.
    #[cfg(test)]
    fn memory_bytes(&self) -> usize {
        let decoder = match self.decoder {
            Decoder::Within(_) => size_of::<DecompressorOxide>(),
            Decoder::Between(_) => size_of::<BlockBoundaryState>(),
            Decoder::Over => 0,
        };
        decoder + self.window.capacity() + size_of::<Self>()
    }
}

/// Appends the octets of `pieces`, compressed up to the last one.
pub fn deflate(pieces: &[&[u8]], out: &mut Vec<u8>) {
    COMPRESSOR.with(|compressor| {
        let mut compressor = compressor.borrow_mut();
        compressor.reset();
        for (index, piece) in pieces.iter().enumerate() {
            let is_last = index + 1 == pieces.len();
            let flush = if is_last { FlushCompress::Sync } else { FlushCompress::None };
            let end = compressor.total_in() + piece.len() as u64;
            loop {
                let taken = piece.len() - (end - compressor.total_in()) as usize;
                out.reserve(ROOM_BYTES);
                let status = compressor.compress_vec(&piece[taken..], out, flush);
                assert!(matches!(status, Ok(Status::Ok | Status::BufError)), "memory to memory");
                // With room left nothing is held back.
                if compressor.total_in() == end && out.len() < out.capacity() {
                    break;
                }
            }
        }
    });
}

/// Raw, with more to come, and a stop between blocks.
const INFLATE_FLAGS: u32 =
    inflate_flags::TINFL_FLAG_HAS_MORE_INPUT | inflate_flags::TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY;
const WINDOW_BYTES_MIN: usize = 1024;
/// As far as the format can refer back (RFC 1951 §2).
const WINDOW_BYTES_MAX: usize = 32 * 1024;
/// Made at once of what is sent.
const ROOM_BYTES: usize = 16 * 1024;

thread_local! {
    /// 300 KB; the fastest level.
    static COMPRESSOR: RefCell<Compress> = RefCell::new(Compress::new(Compression::fast(), false));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client says, compressed in one stream with a flush behind each piece.
    fn compressed(pieces: &[&[u8]]) -> Vec<u8> {
        let mut client = Compress::new(Compression::best(), false);
        let mut out = Vec::with_capacity(1 << 20);
        for piece in pieces {
            client.compress_vec(piece, &mut out, FlushCompress::Sync).expect("room");
        }
        out
    }

    fn inflate_all(inflate: &mut Inflate, mut input: &[u8]) -> Result<Vec<u8>, Unusable> {
        let mut plain = Vec::new();
        loop {
            let before = plain.len();
            let taken = inflate.inflate(input, &mut plain)?;
            assert!(plain.len() - before <= WINDOW_BYTES_MAX);
            input = &input[taken..];
            if input.is_empty() && plain.len() == before {
                return Ok(plain);
            }
        }
    }

    /// Text in which much comes again, also from far back.
    fn text() -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut text = Vec::new();
        while text.len() < 200_000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let at = state as usize % (text.len() + 1);
            let end = (at + state as usize % 300).min(text.len());
            text.extend_from_within(at..end);
            text.extend_from_slice(&state.to_le_bytes()[..3]);
        }
        text
    }

    #[test]
    fn what_was_compressed_comes_back_however_it_is_cut() {
        let text = text();
        let pieces: Vec<&[u8]> = text.chunks(7_001).collect();
        let octets = compressed(&pieces);
        assert_eq!(inflate_all(&mut Inflate::default(), &octets).as_deref(), Ok(&text[..]));
        for step in [1, 2, 3, 1_000] {
            let mut inflate = Inflate::default();
            let mut plain = Vec::new();
            for piece in octets.chunks(step) {
                plain.extend(inflate_all(&mut inflate, piece).expect("compressed"));
            }
            assert!(plain == text, "in steps of {step}");
        }
    }

    #[test]
    fn what_is_sent_is_one_stream_of_pieces() {
        let text = text();
        let mut octets = Vec::new();
        for piece in text.chunks(50_000) {
            let (front, back) = piece.split_at(piece.len() / 3);
            deflate(&[front, back], &mut octets);
        }
        deflate(&[b"", b"x"], &mut octets);
        assert!(octets.len() < text.len());
        let mut client = Inflate::default();
        let plain = inflate_all(&mut client, &octets).expect("compressed");
        assert!(plain == [&text[..], b"x"].concat());
    }

    #[test]
    fn a_client_that_has_said_little_costs_little_between_commands() {
        let mut inflate = Inflate::default();
        let octets = compressed(&[b"a SELECT INBOX\r\n", b"b IDLE\r\n"]);
        assert_eq!(inflate_all(&mut inflate, &octets[..5]).map(|plain| plain.len() < 5), Ok(true));
        assert!(inflate.memory_bytes() > 10_000);
        inflate_all(&mut inflate, &octets[5..]).expect("compressed");
        assert!(inflate.memory_bytes() < 1_200, "{}", inflate.memory_bytes());
    }

    #[test]
    fn a_little_that_stands_for_much_comes_in_pieces() {
        let octets = compressed(&[&vec![0; 1 << 22]]);
        assert!(octets.len() < 1 << 14, "{}", octets.len());
        let mut inflate = Inflate::default();
        // `inflate_all` looks at the length of each piece.
        let plain = inflate_all(&mut inflate, &octets).expect("compressed");
        assert!(plain.len() == 1 << 22 && plain.iter().all(|octet| *octet == 0));
        assert!(inflate.memory_bytes() < 3 * WINDOW_BYTES_MAX, "{}", inflate.memory_bytes());
    }

    #[test]
    fn damaged_octets_are_refused_or_mean_something_else() {
        let octets = compressed(&[b"a SELECT INBOX\r\n", b"b FETCH 1:* (FLAGS)\r\n"]);
        for at in 0..octets.len() {
            for bit in 0..8 {
                let mut damaged = octets.clone();
                damaged[at] ^= 1 << bit;
                let mut inflate = Inflate::default();
                // What stands behind the damage is looked at as far as it is taken.
                let _ = inflate_all(&mut inflate, &damaged);
                let _ = inflate_all(&mut inflate, &octets);
            }
        }
    }

    #[test]
    fn what_is_not_compressed_is_refused() {
        let plain = b"a NOOP\r\nb NOOP\r\nc NOOP\r\n";
        assert_eq!(inflate_all(&mut Inflate::default(), plain), Err(Unusable));
        let mut ended = Compress::new(Compression::fast(), false);
        let mut octets = Vec::with_capacity(100);
        ended.compress_vec(b"a NOOP\r\n", &mut octets, FlushCompress::Finish).expect("room");
        let mut inflate = Inflate::default();
        assert_eq!(inflate_all(&mut inflate, &octets).as_deref(), Ok(&b"a NOOP\r\n"[..]));
        assert_eq!(inflate_all(&mut inflate, b"x"), Err(Unusable), "nothing may follow");
    }
}
