//! Sources whose mail leaves by a proxy: other people's, and one of ours that does as it is told.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::{Behaviour, NextHop, Server, free_address, wait_until};
use crate::interop::{Running, is_installed, is_root};

const QUICK: &str = "[queue]\nretry_wait_min = \"100ms\"\nretry_wait_max = \"200ms\"\n\
    [shards]\ncount = 1\n";

/// One source with a proxy, for all mail, and more sources in its pool.
fn source(proxy: &str, pool: &str, more: &str) -> String {
    format!(
        "[[source]]\nname = \"far\"\naddress = \"127.0.0.2\"\nehlo_name = \"far.test\"\n\
         proxy = \"{proxy}\"\n{more}\n[[pool]]\nname = \"p\"\nsources = {pool}\n\
         [[egress]]\npool = \"p\"\n{QUICK}"
    )
}

fn send(server: &Server, count: usize) {
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    for _ in 0..count {
        let reply = client.message("a@from.test", &["b@to.test"], b"x: y\r\n\r\nz\r\n");
        assert!(reply.starts_with("250"), "{reply}");
    }
}

fn run(command: &mut Command, address: SocketAddr) -> Running {
    let child: Child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the proxy runs");
    let running = Running(child);
    wait_until("the proxy listens", || TcpStream::connect(address).is_ok());
    running
}

fn microsocks(address: SocketAddr, login: &[&str]) -> Running {
    let port = address.port().to_string();
    let mut command = Command::new("microsocks");
    // Mail leaves from the address that the source says.
    command.args(["-i", "127.0.0.1", "-p", &port, "-b", "127.0.0.2"]).args(login);
    run(&mut command, address)
}

#[test]
fn mail_leaves_by_a_socks_proxy_with_or_without_a_login() {
    if !is_installed("microsocks") {
        return;
    }
    let next_hop = NextHop::start(Behaviour::default());
    for (of_proxy, of_source) in [
        (&[][..], ""),
        (&[], "proxy_username = \"user\"\nproxy_password = \"secret\""),
        (&["-u", "user", "-P", "secret"], "proxy_username = \"user\"\nproxy_password = \"secret\""),
    ] {
        let proxy = free_address();
        let _proxy = microsocks(proxy, of_proxy);
        let before = next_hop.got().len();
        let config = source(&format!("socks5://{proxy}"), "\"far\"", of_source);
        let server = Server::start(next_hop.address, &config);
        send(&server, 20);
        let got = next_hop.wait_for(before + 20);
        let it = got.last().expect("arrived");
        assert_eq!((it.client.as_str(), it.ehlo.as_str()), ("127.0.0.2", "far.test"));
        wait_until("all is logged", || server.log().matches("outcome=relayed").count() == 20);
        assert!(!server.log().contains("outcome=delayed"), "{}", server.log());
        assert!(server.log().contains(&format!("site=smtp://{}", next_hop.address)));
    }
}

#[test]
fn a_host_that_a_socks_proxy_does_not_reach_is_not_the_fault_of_the_source() {
    if !is_installed("microsocks") {
        return;
    }
    let proxy = free_address();
    let _proxy = microsocks(proxy, &[]);
    let config = source(&format!("socks5://{proxy}"), "\"far\"", "");
    let server = Server::start(free_address(), &config);
    send(&server, 1);
    wait_until("the delay is logged", || server.log().contains("outcome=delayed"));
    let log = server.log();
    assert!(log.contains(" status=4.4.1 ") && log.contains("connection refused (5)"), "{log}");
    assert!(!server.stderr().contains("cannot be used"), "{}", server.stderr());
}

#[test]
fn a_proxy_that_does_not_know_us_keeps_mail_waiting_and_bounces_nothing() {
    if !is_installed("microsocks") {
        return;
    }
    let next_hop = NextHop::start(Behaviour::default());
    let proxy = free_address();
    let _proxy = microsocks(proxy, &["-u", "user", "-P", "secret"]);
    let login = "proxy_username = \"user\"\nproxy_password = \"wrong\"";
    let config = |login: &str| source(&format!("socks5://{proxy}"), "\"far\"", login);
    let server = Server::start(next_hop.address, &config(login));
    send(&server, 3);
    let expected = "source far (127.0.0.2) cannot be used: socks5://";
    wait_until("it was tried", || server.stderr().contains(expected));
    assert!(server.stderr().contains("the proxy refuses name and password"));
    assert!(next_hop.got().is_empty() && !server.log().contains("outcome="));
    let said = server.stderr() + &server.log();
    assert!(!said.contains("wrong"), "{said}");
    server.write_config(next_hop.address, &config(&login.replace("wrong", "secret")));
    server.signal("HUP");
    next_hop.wait_for(3);
}

#[test]
fn mail_leaves_by_haproxy_from_where_it_is_told() {
    if !is_installed("haproxy") {
        return;
    }
    let next_hop = NextHop::start(Behaviour::default());
    let (proxy, directory) = (free_address(), tempfile::tempdir().expect("a directory"));
    let path = directory.path().join("haproxy.cfg");
    // To where the header says, and from there where we may (root).
    let from = if is_root() { "usesrc clientip" } else { "" };
    let config = format!(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 1m\n timeout server 1m\n\
         listen egress\n bind {proxy} accept-proxy\n source 0.0.0.0 {from}\n server any 0.0.0.0:0\n"
    );
    std::fs::write(&path, config).expect("written");
    let _proxy = run(Command::new("haproxy").args(["-db", "-f"]).arg(&path), proxy);
    let config = source(&format!("haproxy://{proxy}"), "\"far\"", "");
    let server = Server::start(next_hop.address, &config);
    send(&server, 20);
    let got = next_hop.wait_for(20);
    let client = if from.is_empty() { "127.0.0.1" } else { "127.0.0.2" };
    assert!(got.iter().all(|it| it.client == client), "{got:?}");
    wait_until("all is logged", || server.log().matches("outcome=relayed").count() == 20);
    assert!(!server.log().contains("outcome=delayed"), "{}", server.log());
}

#[test]
fn a_dead_proxy_leaves_its_mail_to_other_sources_and_is_asked_again_by_one_connection() {
    let next_hop = NextHop::start(Behaviour::default());
    let proxy = free_address();
    let near = "[[source]]\nname = \"near\"\naddress = \"127.0.0.3\"";
    let config = source(&format!("socks5://{proxy}"), "[\"far*9\", \"near\"]", near);
    let server = Server::start(next_hop.address, &config);
    send(&server, 20);
    let got = next_hop.wait_for(20);
    assert!(got.iter().all(|it| it.client == "127.0.0.3"), "{got:?}");
    let expected = format!("cannot be used: socks5://{proxy}: Connection refused");
    assert!(server.stderr().contains(&expected), "{}", server.stderr());
    assert!(!server.log().contains("outcome=delayed"), "{}", server.log());

    // Sites of the source are many, and none of them knocks while one does.
    let asking: Arc<AtomicUsize> = Arc::default();
    let most: Arc<AtomicUsize> = Arc::default();
    let listener = TcpListener::bind(proxy).expect("the proxy's port");
    let counts = (asking.clone(), most.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (asking, most) = counts.clone();
            std::thread::spawn(move || {
                let now = asking.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                let mut greeting = [0; 3];
                // The server under test may have given up on it.
                let _ = (&stream).read(&mut greeting);
                std::thread::sleep(std::time::Duration::from_millis(300));
                asking.fetch_sub(1, Ordering::SeqCst);
                let _ = (&stream).write_all(b"HTTP/1.1 400 what\r\n\r\n");
            });
        }
    });
    let hops: Vec<NextHop> = (0..4).map(|_| NextHop::start(Behaviour::default())).collect();
    let routes = hops.iter().enumerate().map(|(index, hop)| {
        format!("[[route]]\ndomain = \"d{index}.test\"\nnext_hop = \"smtp://{}\"\n", hop.address)
    });
    let routes: String = routes.collect();
    let config = source(&format!("socks5://{proxy}"), "\"far\"", &routes);
    let server = Server::start(next_hop.address, &config);
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    for index in 0..4 {
        client.message("a@from.test", &[&format!("b@d{index}.test")], b"x: y\r\n\r\n");
    }
    let failures = || {
        let line = "the proxy does not speak SOCKS 5: left alone";
        server.stderr().matches(line).count()
    };
    wait_until("it has failed", || failures() == 1);
    wait_until("all that began before have ended", || asking.load(Ordering::SeqCst) == 0);
    most.store(0, Ordering::SeqCst);
    wait_until("it was asked again and again", || failures() >= 3);
    assert_eq!(most.load(Ordering::SeqCst), 1, "one at a time");
    assert!(hops.iter().all(|hop| hop.got().is_empty()));
}

#[test]
fn a_proxy_that_comes_back_is_found_by_the_connection_that_delivers() {
    if !is_installed("microsocks") {
        return;
    }
    let next_hop = NextHop::start(Behaviour::default());
    let proxy = free_address();
    let config = source(&format!("socks5://{proxy}"), "\"far\"", "");
    let server = Server::start(next_hop.address, &config);
    send(&server, 1);
    wait_until("it was tried", || server.stderr().contains("cannot be used"));
    let _proxy = microsocks(proxy, &[]);
    next_hop.wait_for(1);
    wait_until("it is logged", || server.log().contains("outcome=relayed"));
    assert_eq!(server.metric("ringpost_delivery_connections_total"), 1.0);
}
