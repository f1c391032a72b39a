//! HTTPS requests of the program: asked from any shard or thread, done on threads of their own.
//!
//! **Owns** the few threads that wait for web servers, what waits for them, and what responses
//! mean.
//! **Uses** `limits`, `tls`, `runtime`. Resolves no names: addresses are handed in.
//! **Holds** that no executor waits for a web server, that a request ends by its deadline, that a
//! response has a bound, and that a server is believed only for its name by a CA.
//! **Start reading** at `Web::ask`.

mod exchange;
mod response;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};

pub use response::{Reader, Response};

use crate::limits::{WEB_REQUESTS_WAITING_MAX, WEB_THREADS_MAX};
use crate::runtime::inbox::inbox;
use crate::runtime::timer::{self, Deadline};
use crate::runtime::{clock, thread};

/// One request. Redirections are not followed: they are a status that is not 2xx.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    /// Whom the certificate has to be for.
    pub host: ServerName<'static>,
    /// Tried in order until one can be connected to; they say the port too.
    pub addresses: Vec<SocketAddr>,
    /// Begins with a slash; visible ASCII.
    pub path: String,
    /// By whom the server is verified: `tls::client::Contexts::web`.
    pub tls: Arc<ClientConfig>,
    /// Octets of a response's content above which it is refused.
    pub body_bytes_max: usize,
    /// From now to the last octet of the response, waiting for a thread included.
    pub time_max: Duration,
}

#[derive(Clone, Debug)]
pub enum Method {
    Get,
    /// As GET; the response has no content.
    Head,
    Post {
        content_type: &'static str,
        body: Vec<u8>,
    },
}

/// Why there is no response with a 2xx status.
#[derive(Debug)]
pub enum Failure {
    /// Too many requests wait, or there is no thread to be had. Nothing was sent.
    Busy,
    /// No address could be connected to; the error of the last one.
    Connect(io::Error),
    /// The server's certificate does not stand up.
    Certificate(CertificateError),
    /// There was no TLS session for another reason.
    Tls(rustls::Error),
    /// A status other than 2xx.
    Status(u16),
    /// Head or content of the response are too long.
    TooLarge,
    /// What came is no HTTP response.
    Malformed,
    /// The connection was lost.
    Broken(io::Error),
    /// The time was over.
    Timeout,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Busy => f.write_str("too many HTTPS requests"),
            Failure::Connect(error) => write!(f, "cannot connect: {error}"),
            Failure::Certificate(error) => {
                write!(f, "{}", rustls::Error::InvalidCertificate(error.clone()))
            }
            Failure::Tls(error) => write!(f, "the TLS handshake failed: {error}"),
            Failure::Status(code) => write!(f, "HTTP status {code}"),
            Failure::TooLarge => f.write_str("the HTTP response is too long"),
            Failure::Malformed => f.write_str("malformed HTTP response"),
            Failure::Broken(error) => write!(f, "the connection was lost: {error}"),
            Failure::Timeout => f.write_str("the HTTPS request took too long"),
        }
    }
}

impl std::error::Error for Failure {}

/// Does a request on the calling thread. Gives the response whatever its status is.
pub fn ask_blocking(request: &Request) -> Result<Response, Failure> {
    exchange::run(request, clock::now() + request.time_max)
}

/// The way to web servers, for every shard and thread. Clones are the same.
#[derive(Clone, Default)]
pub struct Web {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    /// Threads that take what waits; each ends when nothing does.
    thread_count: usize,
}

struct Job {
    request: Request,
    end: Instant,
    answer: Box<dyn FnOnce(Result<Response, Failure>) + Send>,
}

impl Web {
    /// Does a request, for a task: suspends until it is answered, at most for its `time_max` and a
    /// moment. Dropped midway, the request goes on to its end and nobody hears of it.
    pub async fn ask(&self, request: Request) -> Result<Response, Failure> {
        let time_max = request.time_max + ANSWER_GRACE;
        let (sender, mut answer) = inbox(1);
        self.submit(request, move |result| {
            // Whoever asked may have gone.
            let _ = sender.try_send(result);
        });
        let deadline = Deadline::default();
        let answered = timer::timeout(&deadline, time_max, answer.recv()).await;
        answered.unwrap_or_else(|timer::Elapsed| Err(Failure::Timeout))
    }

    /// Does a request on a thread, which hands over what came of it. Never waits; a refusal is
    /// handed over by the caller itself.
    pub fn submit(
        &self,
        request: Request,
        answer: impl FnOnce(Result<Response, Failure>) + Send + 'static,
    ) {
        let end = clock::now() + request.time_max;
        let job = Job { request, end, answer: Box::new(answer) };
        let refused = {
            let mut state = lock(&self.state);
            if state.waiting.len() >= WEB_REQUESTS_WAITING_MAX {
                Some(job)
            } else {
                state.waiting.push_back(job);
                self.start_thread(&mut state)
            }
        };
        if let Some(job) = refused {
            (job.answer)(Err(Failure::Busy));
        }
    }

    /// Starts one more thread, if one may be. Returns what nobody is there for.
    fn start_thread(&self, state: &mut State) -> Option<Job> {
        if state.thread_count >= WEB_THREADS_MAX {
            return None;
        }
        let of_thread = self.state.clone();
        match thread::spawn("web", None, move || work(&of_thread)) {
            Ok(_) => {
                state.thread_count += 1;
                None
            }
            Err(_) if state.thread_count == 0 => state.waiting.pop_back(),
            Err(_) => None,
        }
    }
}

/// Until nothing waits.
fn work(state: &Arc<Mutex<State>>) {
    // Gives its place back though a request panics, which ends this thread and no other.
    let mut place = Place { state, is_given_back: false };
    loop {
        let job = {
            let mut state = lock(state);
            let job = state.waiting.pop_front();
            if job.is_none() {
                state.thread_count -= 1;
                place.is_given_back = true;
            }
            job
        };
        let Some(Job { request, end, answer }) = job else { return };
        answer(exchange::run(&request, end).and_then(|response| match response.status {
            200..300 => Ok(response),
            status => Err(Failure::Status(status)),
        }));
    }
}

struct Place<'s> {
    state: &'s Arc<Mutex<State>>,
    is_given_back: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.is_given_back {
            lock(self.state).thread_count -= 1;
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread has this much longer to hand over what it has found.
const ANSWER_GRACE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests;
