//! What a message is part of, and when it may go: by its listener, its header fields, its MAIL.

use crate::harness::{Behaviour, Client, NextHop, Server, free_address, wait_until};

const FIELDS: &str = "[reception.headers]\ntenant = \"X-Tenant\"\ncampaign = \"X-Campaign\"\n\
                      class = \"X-Class\"\nrelease = \"X-Send-At\"\n";

#[test]
fn header_fields_say_more_than_the_listener_and_do_not_travel() {
    let next_hop = NextHop::start(Behaviour::default());
    let second = free_address();
    let extra = format!(
        "[[listener]]\naddress = \"{second}\"\ntenant = \"acme\"\n\
         class = \"transactional\"\n{FIELDS}"
    );
    let server = Server::start(next_hop.address, &extra);
    let mut client = Client::connect(second);
    client.expect("EHLO client.test", "250");
    let content =
        b"Subject: x\r\nx-campaign: spring\r\n sale\r\nX-Class: bulk\r\n\r\nX-Tenant: body\r\n";
    client.message("a@from.test", &["b@to.test"], content);
    client.message("a@from.test", &["c@to.test"], b"X-Tenant: other\r\nSubject: y\r\n\r\n");
    let mut got = next_hop.wait_for(2);
    got.sort_by_key(|message| message.to[0].clone());
    assert_eq!(got[0].original(), b"Subject: x\r\n\r\nX-Tenant: body\r\n");
    assert_eq!(got[1].original(), b"Subject: y\r\n\r\n");
    for part in [
        "recipient=<b@to.test> tenant=acme campaign=spring\\u0020sale site=",
        "recipient=<c@to.test> tenant=other mail_class=transactional site=",
    ] {
        wait_until("it is logged", || server.log().contains(part));
    }
    // In BDAT, with the size it had, and cut where it hurts.
    client.send(
        b"MAIL FROM:<a@from.test> SIZE=31\r\nRCPT TO:<d@to.test>\r\nBDAT 5\r\nX-Ten\
          BDAT 26 LAST\r\nant: third\r\nSubject: z\r\n\r\n",
    );
    for _ in 0..4 {
        let reply = client.reply();
        assert!(reply.starts_with("250"), "{reply}");
    }
    assert_eq!(next_hop.wait_for(3)[2].original(), b"Subject: z\r\n\r\n");
    wait_until("it is logged", || server.log().contains(" tenant=third mail_class=transactional "));
}

#[test]
fn a_header_field_that_makes_no_sense_refuses_the_message() {
    let next_hop = NextHop::start(Behaviour::default());
    let server = Server::start(next_hop.address, FIELDS);
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    let contents: [&[u8]; 4] = [
        b"X-Send-At: tomorrow\r\n\r\n",
        b"X-Send-At: 99999999\r\n\r\n",
        b"X-Class: urgent\r\n\r\n",
        b"X-Tenant: a\r\nX-Tenant: a\r\n\r\n",
    ];
    for content in contents {
        let reply = client.message("a@from.test", &["b@to.test"], content);
        assert!(reply.starts_with("550 5.6.0 The header field X-"), "{reply}");
    }
    let reply = client.message("a@from.test", &["b@to.test"], b"x: y\r\n\r\n");
    assert!(reply.starts_with("250"), "{reply}");
    assert_eq!(next_hop.wait_for(1)[0].original(), b"x: y\r\n\r\n");
}

#[test]
fn large_content_loses_its_fields_and_nothing_else() {
    let next_hop = NextHop::start(Behaviour::default());
    let server = Server::start(next_hop.address, FIELDS);
    let mut client = server.client();
    client.expect("EHLO client.test", "250");
    let rest = [b"\r\n".to_vec(), b"a line of some length\r\n".repeat(40_000)].concat();
    let fields = b"Subject: x\r\n".repeat(30_000);
    let content = [&b"X-Tenant: acme\r\n"[..], &fields, b"X-Class: bulk\r\n", &rest].concat();
    let reply = client.message("a@from.test", &["b@to.test"], &content);
    assert!(reply.starts_with("250"), "{reply}");
    assert!(next_hop.wait_for(1)[0].original() == [fields, rest].concat());
}

#[test]
fn a_message_is_held_until_its_release_and_over_a_restart() {
    let next_hop = NextHop::start(Behaviour::default());
    let mut server = Server::start(next_hop.address, FIELDS);
    let mut client = server.client();
    let extensions = client.expect("EHLO client.test", "250");
    assert!(extensions.contains("250-FUTURERELEASE 604800 20"), "{extensions}");
    for (parameter, to) in [(" HOLDFOR=3600", "later"), (" HOLDFOR=4", "soon"), ("", "now")] {
        client.expect(&format!("MAIL FROM:<a@from.test>{parameter}"), "250");
        client.expect(&format!("RCPT TO:<{to}@to.test>"), "250");
        client.expect("DATA", "354");
        client.send(b"x: y\r\n\r\n.\r\n");
        assert!(client.reply().starts_with("250"));
    }
    client.message("a@from.test", &["field@to.test"], b"X-Send-At: 3600\r\n\r\n");
    client.expect("MAIL FROM:<a@from.test> HOLDFOR=604801", "501 5.5.4");
    assert_eq!(next_hop.wait_for(1)[0].to, ["now@to.test"]);
    drop(client);
    assert!(server.stop().success(), "{}", server.stderr());
    server.start_again();
    assert_eq!(next_hop.wait_for(2)[1].to, ["soon@to.test"]);
    wait_until("two are left", || server.metric("ringpost_queue_messages") == 2.0);
}
