//! What the connections of a run send, made once.

use std::net::SocketAddr;
use std::time::Duration;

use super::options::Options;
use crate::failure::Failure;
use crate::ids::RunId;
use crate::message::{Corpus, Template};

/// What all connections work through.
pub struct Work {
    pub target: SocketAddr,
    corpus: Corpus,
    recipient_lines: Vec<RecipientLines>,
    pub recipient_count: u16,
    pub pipelining: bool,
    pub bdat: bool,
    pub tls: bool,
    pub messages_per_connection: u64,
    pub reply_timeout: Duration,
    pub patience: Duration,
    pub run: RunId,
    pub first_sequence: u64,
}

/// The RCPT commands of a message, together and one by one.
struct RecipientLines {
    all: Vec<u8>,
    each: Vec<Vec<u8>>,
}

impl Work {
    /// Reads or generates the messages.
    pub fn new(options: &Options, run: RunId) -> Result<Self, Failure> {
        let eml = options.eml.as_deref();
        let corpus = Corpus::new(&options.size, eml, &options.reverse_path, &options.field)?;
        let mut domains = options.domains.clone();
        if options.domain_count > 1 {
            let numbered = |domain: &String| {
                let domain = domain.clone();
                (0..options.domain_count).map(move |index| format!("d{index}.{domain}"))
            };
            domains = options.domains.iter().flat_map(numbered).collect();
        }
        let lines = |first: usize| {
            let line = |index: u16| {
                let domain = &domains[(first + usize::from(index)) % domains.len()];
                format!("RCPT TO:<recipient-{index}@{domain}>\r\n").into_bytes()
            };
            let each: Vec<Vec<u8>> = (0..options.recipients).map(line).collect();
            RecipientLines { all: each.concat(), each }
        };
        Ok(Self {
            target: options.target,
            corpus,
            recipient_lines: (0..domains.len()).map(lines).collect(),
            recipient_count: options.recipients,
            pipelining: !options.no_pipelining,
            bdat: options.bdat,
            tls: options.tls,
            messages_per_connection: options.messages_per_connection,
            reply_timeout: options.reply_timeout,
            patience: options.patience,
            run,
            first_sequence: options.first_sequence,
        })
    }

    /// Message `index` of the run.
    pub fn template(&self, index: u64) -> &Template {
        self.corpus.template(index)
    }

    /// The RCPT commands of message `index`.
    pub fn recipients(&self, index: u64) -> &[u8] {
        &self.lines(index).all
    }

    /// One of them.
    pub fn recipient(&self, index: u64, recipient_index: u16) -> &[u8] {
        &self.lines(index).each[usize::from(recipient_index)]
    }

    fn lines(&self, index: u64) -> &RecipientLines {
        &self.recipient_lines[(index % self.recipient_lines.len() as u64) as usize]
    }
}
