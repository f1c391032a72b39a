//! Answers the questions that a CA asks at port 443 of our names, while it has any.

use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection};

use crate::limits::ACME_QUESTIONS_AT_ONCE_MAX;
use crate::runtime::deadline::Deadlined;
use crate::runtime::thread;
use crate::tls::challenge::Challenges;

/// Takes connections for ever. Those that come while nothing is asked for, or while too many are
/// there, are closed at once.
pub fn serve(listener: &TcpListener, challenges: &Challenges, context: &Arc<ServerConfig>) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Most likely descriptors are short.
            std::thread::sleep(ERROR_PAUSE);
            continue;
        };
        if challenges.is_empty() || open.load(Ordering::Relaxed) >= ACME_QUESTIONS_AT_ONCE_MAX {
            continue;
        }
        open.fetch_add(1, Ordering::Relaxed);
        let place = Place(open.clone());
        let context = context.clone();
        // Without a thread the connection is closed, and the CA asks again.
        let _ = thread::spawn("acme-answer", None, move || {
            // A question that is broken off is the CA's to repeat.
            let _ = answer(stream, context);
            drop(place);
        });
    }
}

/// Gives its place back though the thread could not be had.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The handshake is the answer (RFC 8737 §3).
fn answer(stream: TcpStream, context: Arc<ServerConfig>) -> io::Result<()> {
    let mut session = ServerConnection::new(context).map_err(io::Error::other)?;
    let mut stream = Deadlined::new(stream, QUESTION_TIME_MAX);
    while session.is_handshaking() {
        session.complete_io(&mut stream)?;
    }
    session.send_close_notify();
    while session.wants_write() {
        session.write_tls(&mut stream)?;
    }
    // Until the CA closes: a reset could overtake the handshake's end.
    while stream.read(&mut [0; 512])? > 0 {}
    Ok(())
}

const QUESTION_TIME_MAX: Duration = Duration::from_secs(10);
const ERROR_PAUSE: Duration = Duration::from_millis(100);
