use super::*;
use crate::proto::dns::Mx;

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

fn policy(families: Families) -> Policy {
    Policy {
        families,
        port: 25,
        own_names: vec!["us.test".into(), "mx.us.test".into()],
        own_addresses: vec!["192.0.2.99:25".parse().expect("an address")],
        asks_tlsa: false,
    }
}

/// Zero each time: the last of what is shuffled comes first.
fn zero() -> u64 {
    0
}

fn answer(records: Vec<Record>) -> Result<Rc<Answer>, LookupError> {
    Ok(Rc::new(Answer { records, canonical: None, authenticated: false }))
}

/// `10 mx1.test, 20 mx2.test` or the name of an error.
fn mx(text: &str) -> Result<Rc<Answer>, LookupError> {
    match text {
        "no domain" => return Err(LookupError::NoDomain),
        "no data" => return Err(LookupError::NoData),
        "failure" => return Err(LookupError::ServerFailure),
        "silence" => return Err(LookupError::NoAnswer),
        _ => {}
    }
    let records = text.split(", ").map(|record| {
        let (preference, host) = record.split_once(' ').expect("two words");
        let preference = preference.parse().expect("a number");
        Record::Mx(Mx { preference, exchange: name(host) })
    });
    answer(records.collect())
}

/// Addresses in words, or the name of an error; each family gets its own.
fn address_answers(text: &str, families: Families) -> AddressAnswers {
    let addresses: Vec<IpAddr> = text.split(' ').filter_map(|it| it.parse().ok()).collect();
    let of_kind = |kind: &Kind| {
        if addresses.is_empty() {
            return Err(mx(text).expect_err("the name of an error"));
        }
        let of_family = addresses.iter().filter(|it| it.is_ipv4() == (*kind == Kind::A));
        let records: Vec<Record> = of_family.map(|it| Record::Address(*it)).collect();
        if records.is_empty() { Err(LookupError::NoData) } else { answer(records) }
    };
    families.kinds().iter().map(of_kind).collect()
}

/// The whole way: `mx` as above, then for each host in order of the plan its addresses. Gives the
/// addresses in order, a bar between hosts, or the reply.
fn plan(families: Families, records: &str, hosts: &[(&str, &str)]) -> String {
    let policy = policy(families);
    let made = Exchanges::read(&name("a.test"), &mx(records), &policy, &mut zero).and_then(|it| {
        let of_host = |exchange: &Exchange| {
            let found = hosts.iter().find(|(host, _)| *host == exchange.host.as_str());
            address_answers(found.expect("an answer for each host").1, families)
        };
        let answers: Vec<AddressAnswers> = it.hosts.iter().map(of_host).collect();
        Plan::new(it, &answers, &policy, &mut zero)
    });
    match made {
        Ok(plan) => {
            let of_host = |host: &Host| {
                let addresses = host.addresses.iter().map(|it| it.ip().to_string());
                addresses.collect::<Vec<_>>().join(" ")
            };
            plan.hosts.iter().map(of_host).collect::<Vec<_>>().join(" | ")
        }
        Err(reply) => reply.to_string(),
    }
}

fn check(records: &str, hosts: &[(&str, &str)], expected: &str) {
    assert_eq!(plan(Families::Ipv6First, records, hosts), expected, "{records} {hosts:?}");
}

#[test]
fn hosts_come_by_preference_and_equal_ones_in_random_order() {
    let hosts = [("m1.test", "192.0.2.1"), ("m2.test", "192.0.2.2"), ("m3.test", "192.0.2.3")];
    check("30 m3.test, 10 m1.test, 20 m2.test", &hosts, "192.0.2.1 | 192.0.2.2 | 192.0.2.3");
    check("10 m1.test, 10 m2.test, 5 m3.test", &hosts, "192.0.2.3 | 192.0.2.2 | 192.0.2.1");
    check("10 m1.test, 10 m1.test, 5 M1.test", &hosts, "192.0.2.1");
    let policy = policy(Families::Ipv4Only);
    let records = mx("10 m1.test, 10 m2.test, 10 m3.test");
    let mut seed = 1u64;
    let mut random = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        seed >> 33
    };
    let mut first = std::collections::HashMap::new();
    for _ in 0..300 {
        let it = Exchanges::read(&name("a.test"), &records, &policy, &mut random).expect("hosts");
        *first.entry(it.hosts[0].host.as_str().to_owned()).or_insert(0) += 1;
    }
    assert!(first.len() == 3 && first.values().all(|count| *count > 60), "{first:?}");
}

#[test]
fn the_domain_stands_in_where_it_has_no_mx() {
    check("no data", &[("a.test", "192.0.2.1 2001:db8::1")], "2001:db8::1 192.0.2.1");
    check("no data", &[("a.test", "192.0.2.1")], "192.0.2.1");
    check("no data", &[("a.test", "2001:db8::1")], "2001:db8::1");
    check(
        "no data",
        &[("a.test", "no data")],
        "550 5.4.4 a.test has neither MX nor address records",
    );
    check("no domain", &[], "550 5.1.2 No such domain");
}

#[test]
fn failures_of_the_dns_are_transient() {
    check("failure", &[], "451 4.4.3 DNS server failure");
    check("silence", &[], "451 4.4.3 DNS server does not answer");
    check("no data", &[("a.test", "silence")], "451 4.4.3 DNS server does not answer");
    let records = "10 m1.test, 20 m2.test";
    check(records, &[("m1.test", "failure"), ("m2.test", "192.0.2.2")], "192.0.2.2");
    let hosts = [("m1.test", "failure"), ("m2.test", "no domain")];
    check(records, &hosts, "451 4.4.3 DNS server failure");
    let hosts = [("m1.test", "no data"), ("m2.test", "no domain")];
    check(records, &hosts, "550 5.4.4 No MX host of a.test has an address");
}

#[test]
fn a_null_mx_takes_no_mail() {
    check("0 .", &[], "556 5.1.10 Domain takes no mail (null MX)");
    // Beside others it says nothing (RFC 7505 section 3).
    check("0 ., 10 m1.test", &[("m1.test", "192.0.2.1")], "192.0.2.1");
    assert_eq!(NULL_MX_REVERSE_PATH.code, 550);
    assert_eq!(NULL_MX_REVERSE_PATH.status.map(|it| it.to_string()).as_deref(), Some("5.7.27"));
}

#[test]
fn an_address_in_the_place_of_a_host_is_no_host() {
    check("10 192.0.2.1", &[], "550 5.4.4 Domain has no usable MX host");
    check("10 192.0.2.1, 20 m1.test", &[("m1.test", "192.0.2.7")], "192.0.2.7");
}

#[test]
fn mail_never_goes_back_to_us_or_to_what_is_not_better() {
    let hosts = [("m1.test", "192.0.2.1"), ("m2.test", "192.0.2.2"), ("m3.test", "192.0.2.99")];
    check("10 m1.test, 20 mx.us.test, 20 m2.test, 30 m3.test", &hosts, "192.0.2.1");
    check("10 MX.US.test, 20 m2.test", &hosts, "554 5.4.6 MX records lead back to this server");
    // By address, under a name we do not know.
    check("10 m1.test, 20 m3.test, 20 m2.test, 30 m2.test", &hosts, "192.0.2.1");
    check("10 m2.test, 10 m3.test", &hosts, "554 5.4.6 MX records lead back to this server");
    check("no data", &[("a.test", "192.0.2.99")], "554 5.4.6 MX records lead back to this server");
    // We are the backup and the DNS does not say where the primary is.
    let hosts = [("m1.test", "failure"), ("m3.test", "192.0.2.99")];
    check("10 m1.test, 20 m3.test", &hosts, "451 4.4.3 DNS server failure");
    let policy = policy(Families::Ipv4Only);
    let implicit = Exchanges::read(&name("us.test"), &mx("no data"), &policy, &mut zero);
    assert_eq!(implicit.map_err(|reply| reply.code), Err(554));
}

#[test]
fn families_take_turns_in_the_order_that_is_wanted() {
    let check = |families, expected: &str| {
        let hosts = [("m1.test", "192.0.2.1 192.0.2.2 192.0.2.3 2001:db8::1")];
        assert_eq!(plan(families, "10 m1.test", &hosts), expected);
    };
    // The generator that gives zeros turns a list round by one.
    check(Families::Ipv6First, "2001:db8::1 192.0.2.2 192.0.2.3 192.0.2.1");
    check(Families::Ipv4First, "192.0.2.2 2001:db8::1 192.0.2.3 192.0.2.1");
    check(Families::Ipv6Only, "2001:db8::1");
    check(Families::Ipv4Only, "192.0.2.2 192.0.2.3 192.0.2.1");
    let only_other = [("m1.test", "2001:db8::1")];
    let reply = "550 5.4.4 No MX host of a.test has an address";
    assert_eq!(plan(Families::Ipv4Only, "10 m1.test", &only_other), reply);
}

#[test]
fn hosts_and_addresses_are_bounded() {
    let many: Vec<String> = (0..40).map(|it| format!("{it} m{it}.test")).collect();
    let policy = policy(Families::Ipv4Only);
    let records = mx(&many.join(", "));
    let exchanges = Exchanges::read(&name("a.test"), &records, &policy, &mut zero).expect("hosts");
    assert_eq!(exchanges.hosts.len(), MX_HOSTS_MAX);
    let addresses: Vec<String> = (1..50).map(|it| format!("192.0.2.{it}")).collect();
    let answers = vec![address_answers(&addresses.join(" "), Families::Ipv4Only); MX_HOSTS_MAX];
    let plan = Plan::new(exchanges, &answers, &policy, &mut zero).expect("a plan");
    assert!(plan.hosts.iter().all(|host| host.addresses.len() <= MX_HOST_ADDRESSES_MAX));
    let all = plan.hosts.iter().map(|host| host.addresses.len()).sum::<usize>();
    assert_eq!(all, MX_ADDRESSES_MAX);
}

#[test]
fn domains_with_the_same_hosts_share_a_key() {
    let policy = policy(Families::Ipv4Only);
    let key = |domain: &str, records: &str| {
        let exchanges = Exchanges::read(&name(domain), &mx(records), &policy, &mut zero);
        exchanges.expect("hosts").roll_up_key
    };
    let expected = "m1.test,m2.test";
    assert_eq!(key("a.test", "10 M2.test, 20 m1.test"), expected);
    assert_eq!(key("b.test", "5 m1.test, 5 m2.TEST, 5 m1.test"), expected);
    assert_eq!(key("c.test", "no data"), "c.test");
    assert_ne!(key("a.test", "10 m1.test"), expected);
}

#[test]
fn domains_are_read_as_the_dns_knows_them() {
    let check = |domain: &str, expected: &str| {
        let found = match Destination::parse(domain) {
            Ok(Destination::Literal(address)) => format!("literal {address}"),
            Ok(Destination::Domain(name)) => name.to_string(),
            Err(reply) => reply.to_string(),
        };
        assert_eq!(found, expected, "{domain}");
    };
    check("Example.TEST", "example.test");
    check("bücher.example", "xn--bcher-kva.example");
    check("BÜCHER.example", "xn--bcher-kva.example");
    check("faß.example", "xn--fa-hia.example");
    check("xn--bcher-kva.example", "xn--bcher-kva.example");
    check("例え.テスト", "xn--r8jz45g.xn--zckzah");
    check("[192.0.2.1]", "literal 192.0.2.1");
    check("[IPv6:2001:db8::1]", "literal 2001:db8::1");
    check("[300.0.0.1]", "550 5.1.2 No such domain");
    check("\u{200d}.example", "550 5.1.2 No such domain");
    check(&"ü".repeat(70), "550 5.1.2 No such domain");
}

#[test]
fn a_literal_is_its_own_plan() {
    let policy = policy(Families::Ipv4Only);
    let plan = Plan::of_literal("192.0.2.1".parse().expect("an address"), &policy).expect("a plan");
    assert_eq!(plan.hosts[0].addresses, ["192.0.2.1:25".parse().expect("an address")]);
    assert_eq!(plan.roll_up_key, "[192.0.2.1]");
    let plan = Plan::of_literal("2001:db8::1".parse().expect("an address"), &policy);
    assert_eq!(plan.expect("a plan").hosts[0].name, "[IPv6:2001:db8::1]");
    let ours = Plan::of_literal("192.0.2.99".parse().expect("an address"), &policy);
    assert_eq!(ours.map_err(|reply| reply.code), Err(554));
}

#[test]
fn what_is_authenticated_and_aliased_is_passed_on() {
    let policy = policy(Families::Ipv6First);
    let mut records = (*mx("10 m1.test").expect("records")).clone();
    records.authenticated = true;
    let exchanges = Exchanges::read(&name("a.test"), &Ok(Rc::new(records)), &policy, &mut zero);
    let exchanges = exchanges.expect("hosts");
    let address = |authenticated, canonical: Option<&str>| {
        Ok(Rc::new(Answer {
            records: vec![Record::Address("192.0.2.1".parse().expect("an address"))],
            canonical: canonical.map(name),
            authenticated,
        }))
    };
    let answers = [vec![Err(LookupError::NoData), address(true, Some("real.test"))]];
    let plan = Plan::new(exchanges.clone(), &answers, &policy, &mut zero).expect("a plan");
    assert!(plan.authenticated && plan.hosts[0].authenticated);
    assert_eq!(plan.hosts[0].canonical, Some(name("real.test")));
    let answers = [vec![address(true, None), address(false, None)]];
    let plan = Plan::new(exchanges, &answers, &policy, &mut zero).expect("a plan");
    assert!(!plan.hosts[0].authenticated);
}
