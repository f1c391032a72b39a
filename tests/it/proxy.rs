//! Clients behind a proxy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::harness::{Behaviour, Client, NextHop, Server, free_address};

fn start(next_hop: &NextHop) -> (Server, SocketAddr) {
    let address = free_address();
    let more = format!(
        "[reception]\nrelay_networks = [\"192.0.2.0/24\", \"2001:db8::/32\"]\n\
         [[listener]]\naddress = \"{address}\"\nproxy_networks = [\"127.0.0.1\"]\n"
    );
    (Server::start(next_hop.address, &more), address)
}

/// A client whose connection begins with `header`, greeted.
fn behind(address: SocketAddr, header: &[u8]) -> Client {
    let mut client = Client::connect_silent(address);
    client.send(header);
    let greeting = client.reply();
    assert!(greeting.starts_with("220"), "{greeting}");
    client.expect("EHLO client.test", "250");
    client
}

fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = (rest.len() as u16).to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[command, family], &length, rest].concat()
}

#[test]
fn the_client_is_whom_the_proxy_names() {
    let next_hop = NextHop::start(Behaviour::default());
    let (server, address) = start(&next_hop);
    let line = b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 25\r\n";
    let of_six = [
        [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7].as_slice(),
        &[0; 15],
        &[1, 0x12, 0x67, 0, 25],
    ]
    .concat();
    let clients = [
        (line.to_vec(), "192.0.2.7"),
        (binary(0x21, 0x21, &of_six), "2001:db8::7"),
        (binary(0x21, 0x11, &[192, 0, 2, 8, 127, 0, 0, 1, 1, 1, 0, 25]), "192.0.2.8"),
    ];
    for (index, (header, named)) in clients.into_iter().enumerate() {
        let mut client = behind(address, &header);
        let reply = client.message("a@from.test", &["b@to.test"], b"Subject: x\r\n\r\nbody\r\n");
        assert!(reply.starts_with("250"), "{reply}");
        let got = next_hop.wait_for(index + 1);
        assert!(String::from_utf8_lossy(&got[index].content).contains(named), "{named}");
    }
    // One that may not relay, and the proxy itself, which may not either.
    for header in [&b"PROXY TCP4 198.51.100.1 127.0.0.1 4711 25\r\n"[..], &binary(0x20, 0, &[])] {
        let mut client = behind(address, header);
        client.expect("MAIL FROM:<a@from.test>", "250");
        let reply = client.say("RCPT TO:<b@to.test>");
        assert!(reply.starts_with("55"), "{reply}");
    }
    // The other listener knows of no proxy.
    let mut client = server.client();
    assert!(client.say("PROXY TCP4 192.0.2.7 127.0.0.1 4711 25").starts_with("500"));
}

#[test]
fn a_proxy_that_says_something_else_is_let_go_without_a_word() {
    let next_hop = NextHop::start(Behaviour::default());
    let (server, address) = start(&next_hop);
    for said in [&b"EHLO client.test\r\nQUIT\r\n"[..], &binary(0x21, 0x12, &[0; 12])] {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.write_all(said).expect("written");
        let mut answer = Vec::new();
        // What it did not read makes the kernel reset the connection.
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{}", answer.escape_ascii());
    }
    assert_eq!(server.metric("ringpost_reception_sessions_refused_total"), 2.0);
    assert_eq!(server.metric("ringpost_reception_sessions_open"), 0.0);
}
