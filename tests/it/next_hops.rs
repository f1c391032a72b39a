//! Next hops that do not behave: nothing is lost, and no mail waits for nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::{Server, free_address, wait_until};

/// A next hop that serves its connections, numbered from 0, with `serve`.
fn next_hop(serve: impl Fn(usize, &mut Peer) + Send + Sync + 'static) -> SocketAddr {
    let address = free_address();
    let listener = TcpListener::bind(address).expect("the next hop's port");
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let Ok(stream) = stream else { continue };
            let serve = serve.clone();
            std::thread::spawn(move || serve(number, &mut Peer::new(stream)));
        }
    });
    address
}

struct Peer {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Peer {
    fn new(stream: TcpStream) -> Peer {
        let reader = BufReader::new(stream.try_clone().expect("a socket"));
        Peer { stream, reader }
    }

    fn say(&mut self, text: &str) {
        // The server under test may have given up on this connection.
        let _ = self.stream.write_all(text.as_bytes());
    }

    /// The next line; empty at the end.
    fn hear(&mut self) -> String {
        let mut line = String::new();
        // The server under test may have given up on this connection.
        let _ = self.reader.read_line(&mut line);
        line
    }

    fn greet(&mut self) {
        self.say("220 next-hop.test\r\n");
        self.hear();
        self.say("250-next-hop.test\r\n250-PIPELINING\r\n250 CHUNKING\r\n");
    }

    /// Takes messages until the connection ends, at most `count_max`.
    fn take(&mut self, count_max: usize, taken: &AtomicUsize) {
        let mut count = 0;
        while count < count_max {
            let line = self.hear();
            if line.is_empty() || line.starts_with("QUIT") {
                return;
            }
            if let Some(rest) = line.strip_prefix("BDAT ") {
                let bytes: usize =
                    rest.split(' ').next().and_then(|it| it.parse().ok()).expect("a size");
                let mut content = vec![0; bytes];
                if self.reader.read_exact(&mut content).is_err() {
                    return;
                }
                taken.fetch_add(1, Ordering::SeqCst);
                count += 1;
            }
            self.say("250 2.0.0 ok\r\n");
        }
    }
}

fn send(server: &Server, count: usize) {
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    for _ in 0..count {
        let reply = client.message("a@from.test", &["b@to.test"], b"x: y\r\n\r\n");
        assert!(reply.starts_with("250"), "{reply}");
    }
}

const QUICK: &str = "[queue]\nretry_wait_min = \"100ms\"\nretry_wait_max = \"200ms\"\n";

fn all_delivered(server: &Server, taken: &AtomicUsize, count: usize) {
    wait_until("all is delivered", || taken.load(Ordering::SeqCst) >= count);
    wait_until("the queue is empty", || server.metric("ringpost_queue_messages") == 0.0);
    assert_eq!(taken.load(Ordering::SeqCst), count, "each once");
    assert!(!server.stderr().contains("panicked"), "{}", server.stderr());
}

#[test]
fn a_next_hop_that_answers_before_it_is_asked_is_left_and_tried_again() {
    let early = [
        "220 mx\r\n250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n250 more\r\n",
        "220 mx\r\n250 mx\r\n250 mail\r\n250 rcpt\r\n354 go\r\n250 done\r\n",
        "220 mx\r\n421 no\r\n",
    ];
    let taken = Arc::new(AtomicUsize::new(0));
    let of_hop = taken.clone();
    let address = next_hop(move |number, peer| match early.get(number) {
        Some(text) => {
            peer.say(text);
            while !peer.hear().is_empty() {}
        }
        // Behind the EHLO reply, in one write with it.
        None if number < 5 => {
            peer.say("220 mx\r\n");
            peer.hear();
            peer.say(if number == 3 {
                "250 mx\r\n421 4.3.2 closing\r\n"
            } else {
                "250 mx\r\n250 x\r\n"
            });
            while !peer.hear().is_empty() {}
        }
        None => {
            peer.greet();
            peer.take(usize::MAX, &of_hop);
        }
    });
    let server = Server::start(address, QUICK);
    send(&server, 3);
    all_delivered(&server, &taken, 3);
}

#[test]
fn a_refused_further_connection_stalls_nothing() {
    let taken = Arc::new(AtomicUsize::new(0));
    let refused = Arc::new(AtomicUsize::new(0));
    let (of_hop, of_refused) = (taken.clone(), refused.clone());
    let address = next_hop(move |number, peer| {
        if number > 0 {
            of_refused.fetch_add(1, Ordering::SeqCst);
            return peer.say("421 4.7.0 too many connections\r\n");
        }
        peer.greet();
        loop {
            // Slow enough that a second connection is wanted.
            std::thread::sleep(std::time::Duration::from_millis(60));
            let before = of_hop.load(Ordering::SeqCst);
            peer.take(1, &of_hop);
            if of_hop.load(Ordering::SeqCst) == before {
                return;
            }
        }
    });
    // A wait that the test would not sit through.
    let config = "[shards]\ncount = 1\n[queue]\nretry_wait_min = \"10m\"\n";
    let server = Server::start(address, config);
    send(&server, 30);
    all_delivered(&server, &taken, 30);
    assert!(refused.load(Ordering::SeqCst) > 0, "a second connection was tried");
}

#[test]
fn a_session_ended_by_421_costs_the_next_message_no_attempt() {
    let taken = Arc::new(AtomicUsize::new(0));
    let of_hop = taken.clone();
    // Two messages a session, the farewell at once behind the second reply.
    let address = next_hop(move |_, peer| {
        peer.greet();
        peer.take(2, &of_hop);
        peer.say("421 4.7.0 enough for one session\r\n");
        std::thread::sleep(std::time::Duration::from_millis(50));
    });
    let server = Server::start(address, "[queue]\nretry_wait_min = \"10m\"\n");
    send(&server, 9);
    std::thread::sleep(std::time::Duration::from_millis(100));
    send(&server, 2);
    all_delivered(&server, &taken, 11);
    wait_until("it is logged", || server.log().matches("outcome=relayed").count() == 11);
    assert_eq!(server.log().matches("outcome=delayed").count(), 0, "{}", server.log());
}
