use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustls::{RootCertStore, ServerConnection, StreamOwned};

use super::*;
use crate::tls::client::Contexts;
use crate::tls::identity::Identity;
use crate::tls::identity::tests::certificate;
use crate::tls::{Version, roots_from_pem, server};

/// A server that gives one response to whatever one client asks: what it was asked.
fn serve(chain: &str, key: &str, response: &'static str) -> (SocketAddr, JoinHandle<String>) {
    let identity = Identity::from_pem(chain.as_bytes(), key.as_bytes()).expect("an identity");
    let context = server::Context::new(vec![identity], Version::Tls12, None).expect("a context");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client");
        let session = ServerConnection::new(context.config()).expect("a session");
        let mut stream = StreamOwned::new(session, stream);
        let mut request = Vec::new();
        let mut buffer = [0; 1024];
        let is_whole = |request: &[u8]| {
            let text = String::from_utf8_lossy(request).into_owned();
            let body = if text.starts_with("POST") { "\r\n\r\nreport" } else { "\r\n\r\n" };
            text.ends_with(body)
        };
        while !is_whole(&request) {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return String::new(),
                Ok(count) => request.extend_from_slice(&buffer[..count]),
            }
        }
        stream.write_all(response.as_bytes()).expect("written");
        stream.conn.send_close_notify();
        let _ = stream.flush();
        String::from_utf8(request).expect("a text")
    });
    (address, thread)
}

fn request(addresses: Vec<SocketAddr>, roots: RootCertStore, method: Method) -> Request {
    Request {
        method,
        host: ServerName::try_from("web.test").expect("a name"),
        addresses,
        path: "/a/b?c".into(),
        tls: Contexts::new(roots, None, []).web(),
        body_bytes_max: 10,
        time_max: Duration::from_secs(20),
    }
}

fn outcome(request: Request) -> Result<Response, Failure> {
    let (sender, receiver) = mpsc::channel();
    Web::default().submit(request, move |result| sender.send(result).expect("somebody waits"));
    receiver.recv().expect("an answer")
}

#[test]
fn a_server_with_the_right_certificate_is_asked() {
    let (chain, key, ca) = certificate(&["web.test"]);
    let roots = || roots_from_pem(ca.as_bytes()).expect("a CA");
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let closed = nobody.local_addr().expect("bound");
    drop(nobody);
    let ok = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi";
    let (address, server) = serve(&chain, &key, ok);
    let response = outcome(request(vec![closed, address], roots(), Method::Get)).expect("asked");
    assert_eq!((response.status, &*response.content_type), (200, "text/plain"));
    assert_eq!(response.body, b"hi");
    let asked = server.join().expect("served");
    assert!(asked.starts_with("GET /a/b?c HTTP/1.1\r\nHost: web.test:"), "{asked}");
    let (address, server) = serve(&chain, &key, "HTTP/1.1 201 Created\r\n\r\n");
    let report = Method::Post { content_type: "application/json", body: b"report".to_vec() };
    assert_eq!(outcome(request(vec![address], roots(), report)).expect("asked").status, 201);
    let asked = server.join().expect("served");
    let fields = "Content-Type: application/json\r\nContent-Length: 6\r\n\r\nreport";
    assert!(asked.starts_with("POST /a/b?c ") && asked.ends_with(fields), "{asked}");
}

#[test]
fn each_way_to_fail_is_told_from_the_others() {
    let (chain, key, ca) = certificate(&["web.test"]);
    let roots = |ca: &str| roots_from_pem(ca.as_bytes()).expect("a CA");
    let fail = |chain: &str, key: &str, response: &'static str| {
        let (address, server) = serve(chain, key, response);
        let failure = outcome(request(vec![address], roots(&ca), Method::Get)).expect_err("fails");
        server.join().expect("served");
        failure
    };
    let ok = "HTTP/1.1 200 OK\r\n";
    assert!(matches!(fail(&chain, &key, "HTTP/1.1 301 Moved\r\n\r\n"), Failure::Status(301)));
    assert!(matches!(fail(&chain, &key, "hello\r\n\r\n"), Failure::Malformed));
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
    assert!(matches!(fail(&chain, &key, cut), Failure::Malformed));
    assert!(matches!(fail(&chain, &key, ok), Failure::Malformed));
    let long = "HTTP/1.1 200 OK\r\n\r\n01234567890";
    assert!(matches!(fail(&chain, &key, long), Failure::TooLarge));
    let (other_chain, other_key, other_ca) = certificate(&["other.test"]);
    let failure = fail(&other_chain, &other_key, ok);
    assert!(matches!(failure, Failure::Certificate(_)), "{failure}");
    let (address, server) = serve(&other_chain, &other_key, ok);
    let wrong_name = request(vec![address], roots(&other_ca), Method::Get);
    let failure = outcome(wrong_name).expect_err("fails").to_string();
    assert!(failure.contains("not valid for name"), "{failure}");
    server.join().expect("served");
    let none = outcome(request(vec![], roots(&ca), Method::Get)).expect_err("fails");
    assert!(matches!(none, Failure::Connect(_)));
}

#[test]
fn a_server_that_says_nothing_is_given_up_at_the_deadline() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = silent.local_addr().expect("bound");
    let (_, _, ca) = certificate(&["web.test"]);
    let roots = roots_from_pem(ca.as_bytes()).expect("a CA");
    let mut request = request(vec![address], roots, Method::Get);
    request.time_max = Duration::from_millis(30);
    assert!(matches!(outcome(request), Err(Failure::Timeout)));
}

#[test]
fn no_more_wait_than_may_and_each_is_answered() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = silent.local_addr().expect("bound");
    let (_, _, ca) = certificate(&["web.test"]);
    let roots = roots_from_pem(ca.as_bytes()).expect("a CA");
    let mut request = request(vec![address], roots, Method::Get);
    let web = Web::default();
    let (sender, receiver) = mpsc::channel();
    let submit = |request: &Request| {
        let sender = sender.clone();
        web.submit(request.clone(), move |result| sender.send(result).expect("somebody waits"));
    };
    // Nobody takes what waits while all threads are busy with the silent one.
    for _ in 0..WEB_THREADS_MAX {
        submit(&request);
    }
    let taken: Vec<TcpStream> =
        (0..WEB_THREADS_MAX).map(|_| silent.accept().expect("a client").0).collect();
    request.time_max = Duration::ZERO;
    for _ in 0..WEB_REQUESTS_WAITING_MAX {
        submit(&request);
    }
    assert!(receiver.try_recv().is_err());
    submit(&request);
    assert!(matches!(receiver.try_recv(), Ok(Err(Failure::Busy))));
    drop(taken);
    for _ in 0..WEB_THREADS_MAX + WEB_REQUESTS_WAITING_MAX {
        let result = receiver.recv().expect("an answer");
        assert!(matches!(result, Err(Failure::Broken(_) | Failure::Timeout)), "{result:?}");
    }
    assert!(lock(&web.state).waiting.is_empty());
}
