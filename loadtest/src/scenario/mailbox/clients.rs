//! The clients: an IMAP, an LMTP and a POP3 session, each as cheap against the server as it can be.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ringpost::runtime::net::TcpStream;
use ringpost::runtime::stream::Stream;
use ringpost::tls::client::{Contexts, Demand};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::scanner::{Answer, Scanner};
use crate::message::Template;
use crate::source::replies::{Replies, receive};

/// An IMAP session.
pub struct Imap {
    stream: Stream,
    scanner: Scanner,
    tag: Vec<u8>,
    number: u64,
    answer: Answer,
}

impl Imap {
    /// Logs in, under TLS from the first octet where it `is_protected`.
    pub async fn open(
        address: SocketAddr,
        from: Option<IpAddr>,
        is_protected: bool,
        name: &str,
    ) -> io::Result<Self> {
        let mut stream: Stream = TcpStream::connect(address, from, PATIENCE).await?.into();
        stream.set_deadline(Some(PATIENCE));
        if is_protected {
            let context = Contexts::default().context(&Demand::default());
            let server = ServerName::IpAddress(address.ip().into());
            let connection = ClientConnection::new(context, server).map_err(io::Error::other)?;
            stream.start_tls(connection).await?;
        }
        let (scanner, answer) = (Scanner::default(), Answer::default());
        let mut imap = Self { stream, scanner, tag: Vec::new(), number: 0, answer };
        // The greeting is whatever came before the first answer.
        imap.command(&format!("LOGIN {name} {PASSWORD}")).await?;
        Ok(imap)
    }

    /// Sends a command and waits for its end; an error where that is not OK.
    pub async fn command(&mut self, text: &str) -> io::Result<Answer> {
        self.begin(text, None).await?;
        while self.answer.ended.is_none() {
            self.read().await?;
        }
        self.end()
    }

    /// The same, and keeps the literals of the answer.
    pub async fn command_with_literals(&mut self, text: &str) -> io::Result<Answer> {
        self.begin(text, Some(Vec::new())).await?;
        while self.answer.ended.is_none() {
            self.read().await?;
        }
        self.end()
    }

    /// Says IDLE; returns when the server waits with us.
    pub async fn idle(&mut self) -> io::Result<()> {
        self.begin("IDLE", None).await?;
        while self.answer.continued == 0 {
            self.refuse_end()?;
            self.read().await?;
        }
        Ok(())
    }

    /// In IDLE: waits until the mailbox has at least so many messages.
    pub async fn wait_for_exists(&mut self, count: u64) -> io::Result<()> {
        while self.answer.exists.is_none_or(|exists| exists < count) {
            self.refuse_end()?;
            self.read().await?;
        }
        Ok(())
    }

    /// Ends IDLE.
    pub async fn done(&mut self) -> io::Result<Answer> {
        self.stream.write_all(b"DONE\r\n").await?;
        while self.answer.ended.is_none() {
            self.read().await?;
        }
        self.end()
    }

    async fn begin(&mut self, text: &str, literals: Option<Vec<Vec<u8>>>) -> io::Result<()> {
        self.number += 1;
        self.tag.clear();
        self.tag.extend_from_slice(format!("a{}", self.number).as_bytes());
        self.answer = Answer { literals, ..Answer::default() };
        self.stream.set_deadline(Some(PATIENCE));
        self.stream.write_all_vectored(&[&self.tag, b" ", text.as_bytes(), b"\r\n"]).await
    }

    async fn read(&mut self) -> io::Result<()> {
        let (scanner, answer, tag) = (&mut self.scanner, &mut self.answer, &self.tag[..]);
        let understood = self
            .stream
            .read_scratch(|bytes| match bytes {
                [] => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                bytes => Ok(scanner.take(bytes, tag, answer)),
            })
            .await??;
        if understood { Ok(()) } else { Err(io::Error::other("the server does not speak IMAP")) }
    }

    /// An error where the command under way has ended, which it should not have.
    fn refuse_end(&self) -> io::Result<()> {
        match &self.answer.ended {
            None => Ok(()),
            Some(end) => Err(io::Error::other(format!("IMAP: ended early: {end:?}"))),
        }
    }

    fn end(&mut self) -> io::Result<Answer> {
        let answer = std::mem::take(&mut self.answer);
        match &answer.ended {
            Some(Err(refusal)) => Err(io::Error::other(format!("IMAP: {refusal}"))),
            _ => Ok(answer),
        }
    }
}

/// An LMTP session that delivers one message after another.
pub struct Lmtp {
    stream: Stream,
    replies: Replies,
}

impl Lmtp {
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address, None, PATIENCE).await?.into();
        let mut lmtp = Self { stream, replies: Replies::default() };
        lmtp.expect(220).await?;
        lmtp.stream.write_all(b"LHLO source.test\r\n").await?;
        lmtp.expect(250).await?;
        Ok(lmtp)
    }

    /// Delivers to one recipient, envelope and DATA in one write, then the content; returns once
    /// it is answered for.
    pub async fn deliver(
        &mut self,
        recipient: &str,
        id_block: &[u8],
        letter: &Template,
    ) -> io::Result<()> {
        self.stream.set_deadline(Some(PATIENCE));
        let recipient = [b"RCPT TO:<", recipient.as_bytes(), b">\r\nDATA\r\n"].concat();
        self.stream.write_all_vectored(&[&letter.mail_plain, &recipient]).await?;
        for code in [250, 250, 354] {
            self.expect(code).await?;
        }
        self.stream.write_all_vectored(&[id_block, &letter.stuffed]).await?;
        self.expect(250).await
    }

    async fn expect(&mut self, code: u16) -> io::Result<()> {
        loop {
            match self.replies.next_code() {
                Some(found) if found == code => return Ok(()),
                Some(found) => {
                    let said = self.replies.refusal.take().unwrap_or_else(|| found.to_string());
                    return Err(io::Error::other(format!("LMTP: {said}")));
                }
                None => {}
            }
            receive(&mut self.stream, &mut self.replies, "LMTP").await?;
        }
    }
}

/// A POP3 session.
pub struct Pop3 {
    stream: Stream,
    /// The last octets of what came, for an end that is cut.
    tail: Vec<u8>,
}

impl Pop3 {
    pub async fn open(address: SocketAddr, name: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address, None, PATIENCE).await?.into();
        let mut pop3 = Self { stream, tail: Vec::new() };
        pop3.stream.set_deadline(Some(PATIENCE));
        pop3.response(b"\r\n").await?;
        pop3.line(&format!("USER {name}")).await?;
        pop3.line(&format!("PASS {PASSWORD}")).await?;
        Ok(pop3)
    }

    /// Sends a command whose response is a line.
    pub async fn line(&mut self, command: &str) -> io::Result<u64> {
        self.stream.write_all_vectored(&[command.as_bytes(), b"\r\n"]).await?;
        self.response(b"\r\n").await
    }

    /// Sends a command whose response ends with a line of a dot; its octets.
    pub async fn lines(&mut self, command: &str) -> io::Result<u64> {
        self.stream.write_all_vectored(&[command.as_bytes(), b"\r\n"]).await?;
        self.response(b"\r\n.\r\n").await
    }

    /// Until `end`, or the line of a refusal.
    async fn response(&mut self, end: &[u8]) -> io::Result<u64> {
        self.tail.clear();
        let (mut octets, mut is_refused) = (0, false);
        self.stream.set_deadline(Some(PATIENCE));
        loop {
            let tail = &mut self.tail;
            self.stream
                .read_scratch(|bytes| {
                    if bytes.is_empty() {
                        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                    }
                    is_refused |= octets == 0 && bytes[0] == b'-';
                    octets += bytes.len() as u64;
                    // We are asked for nothing before the last answer, so the end is at the end.
                    let from = if is_refused { 0 } else { bytes.len().saturating_sub(end.len()) };
                    tail.extend_from_slice(&bytes[from..]);
                    Ok(())
                })
                .await??;
            if is_refused && self.tail.ends_with(b"\r\n") {
                let said = String::from_utf8_lossy(&self.tail).trim_end().to_owned();
                return Err(io::Error::other(format!("POP3: {said}")));
            }
            if self.tail.ends_with(end) {
                return Ok(octets);
            }
            let superfluous = self.tail.len().saturating_sub(end.len());
            if !is_refused {
                self.tail.drain(..superfluous);
            }
        }
    }
}

/// Of every account.
pub const PASSWORD: &str = "a-secret-of-all";
/// Longest wait for anything, on a machine that does all of this at once.
pub const PATIENCE: Duration = Duration::from_secs(300);
