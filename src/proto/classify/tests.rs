use super::*;

fn rule(class: ReplyClass) -> Rule {
    Rule {
        codes: Vec::new(),
        statuses: Vec::new(),
        texts: Vec::new(),
        expressions: Vec::new(),
        sites: Vec::new(),
        domains: Vec::new(),
        sources: Vec::new(),
        tenants: Vec::new(),
        class,
        outcome: None,
        effect: None,
    }
}

fn context(reply: &Reply) -> ReplyContext<'_> {
    ReplyContext { reply, site: "smtp://192.0.2.1:25", domain: "a.test", source: "", tenant: "t" }
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = Rules::new(vec![
        Rule {
            texts: vec!["over quota".into(), "mailbox full".into()],
            codes: vec![CodePattern::parse("5xx").expect("a code")],
            outcome: Some(Outcome::Delayed),
            ..rule(ReplyClass::MailboxFull)
        },
        Rule { texts: vec!["full".into()], ..rule(ReplyClass::System) },
        Rule {
            expressions: vec![Expression::parse(r"listed (on|at) \w+").expect("valid")],
            tenants: vec![NamePattern::parse("t*").expect("a name")],
            ..rule(ReplyClass::Reputation)
        },
    ]);
    let rules = rules.expect("few");
    let class = |code, text: &'static str| {
        let reply = Reply::bare(code, text);
        rules.judge(&context(&reply)).class.as_str()
    };
    assert_eq!(class(552, "Sorry, MAILBOX\n  Full"), "mailbox-full");
    assert_eq!(class(452, "Sorry, mailbox full"), "system");
    assert_eq!(class(550, "you are Listed\non Here"), "reputation");
    assert_eq!(class(550, "no such user (#5.1.1)"), "invalid-mailbox");
    assert_eq!(class(550, "5.7.26 x"), "authentication");
    assert_eq!(class(550, "x"), "other");
    assert_eq!(class(530, "\u{fffd}#\n"), "credentials");
    let reply = Reply::bare(552, "over quota");
    assert_eq!(rules.judge(&context(&reply)).outcome, Some(Outcome::Delayed));
    let elsewhere = ReplyContext { tenant: "other", ..context(&reply) };
    assert_eq!(rules.judge(&elsewhere).class, ReplyClass::MailboxFull);
}

#[test]
fn text_beyond_the_bound_is_not_looked_at() {
    let rules = Rules::new(vec![Rule { texts: vec!["full".into()], ..rule(ReplyClass::Spam) }]);
    let long = "x".repeat(REPLY_TEXT_JUDGED_BYTES_MAX - 4);
    for (text, expected) in [(format!("{long}full"), "spam"), (format!("{long}xfull"), "other")] {
        let reply = Reply::remote(550, None, text);
        let judged = rules.as_ref().expect("few").judge(&context(&reply));
        assert_eq!(judged.class.as_str(), expected);
    }
}

#[test]
fn patterns_match_what_they_say() {
    let code = |text| CodePattern::parse(text);
    assert!(code("4xx").is_some_and(|it| it.matches(400) && it.matches(499) && !it.matches(500)));
    assert!(code("45x").is_some_and(|it| it.matches(459) && !it.matches(460)));
    assert!(code("421").is_some_and(|it| it.matches(421) && !it.matches(422)));
    for text in ["", "4", "4x1", "xxx", "1xx", "600", "42é", "4211"] {
        assert_eq!(code(text), None, "{text}");
    }
    let status = |text: &str, status: (u8, u16, u16)| {
        let status = EnhancedStatusCode::new(status.0, status.1, status.2);
        StatusPattern::parse(text).map(|it| it.matches(status))
    };
    assert_eq!(status("4.7.*", (4, 7, 500)), Some(true));
    assert_eq!(status("*.2.2", (5, 2, 2)), Some(true));
    assert_eq!(status("*.2.2", (5, 2, 3)), Some(false));
    for text in ["", "4.7", "3.1.1", "4.7.1.1", "4.+7.1", "4.7.1000", "4..1"] {
        assert_eq!(status(text, (4, 7, 0)), None, "{text}");
    }
    let name = |pattern: &str, name: &str| NamePattern::parse(pattern).map(|it| it.matches(name));
    assert_eq!(name("*.Example.test", "mx.example.TEST"), Some(true));
    assert_eq!(name("*.example.test", "example.test"), Some(false));
    assert_eq!(name("a*a", "a"), Some(false));
    assert_eq!(name("a", "A"), Some(true));
    assert_eq!(name("é*", "É"), Some(false));
    assert_eq!(name("a*b*", "ab"), None);
    for (text, expected) in [
        ("(", "unclosed group"),
        ("", "expected 1 to"),
        ("x*", "it matches every text"),
        ("(a{1,200}){1,200}", ""),
        (r"\p{Greek}", "Unicode"),
    ] {
        let reason = Expression::parse(text).expect_err(text);
        assert!(reason.contains(expected) && !reason.contains('\n'), "{text}: {reason}");
    }
}
