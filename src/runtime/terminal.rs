//! Secrets that somebody types: not shown while they are.

use std::io::{self, BufRead, Write};
use std::mem::MaybeUninit;

/// Reads a line of standard input, which is a terminal, without showing it. Its line feed is not
/// part of it.
pub fn read_hidden(prompt: &str) -> io::Result<String> {
    let mut error_output = io::stderr();
    write!(error_output, "{prompt}")?;
    error_output.flush()?;
    let hidden = Hidden::start()?;
    let line = read_first_line(&mut io::stdin().lock());
    drop(hidden);
    writeln!(error_output)?;
    line
}

/// The first line of something, without its end. Nothing is left of an input that is no text.
pub fn read_first_line(input: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    let end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(end);
    Ok(line)
}

/// The terminal does not show what is typed, and no key ends the process, until this is dropped.
struct Hidden {
    before: libc::termios,
}

impl Hidden {
    fn start() -> io::Result<Hidden> {
        let mut before = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: `before` has room for what is written there.
        if unsafe { libc::tcgetattr(libc::STDIN_FILENO, before.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has succeeded, so all of it is written.
        let before = unsafe { before.assume_init() };
        let mut hidden = before;
        hidden.c_lflag &= !(libc::ECHO | libc::ISIG);
        set(&hidden)?;
        Ok(Hidden { before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A terminal that is gone shows nothing in any case.
        let _ = set(&self.before);
    }
}

fn set(settings: &libc::termios) -> io::Result<()> {
    // SAFETY: `settings` is whole, and only read.
    match unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSAFLUSH, settings) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_line_is_not_part_of_a_secret() {
        for (input, expected) in [("a b\n", "a b"), ("a\r\nc", "a"), (" a ", " a "), ("", "")] {
            assert_eq!(read_first_line(&mut input.as_bytes()).expect("text"), expected);
        }
        assert!(read_first_line(&mut &b"\xff\n"[..]).is_err());
    }
}
