//! One table of commands for each group, and what each becomes.

use super::*;

fn parsed(text: &str) -> Result<Command, &'static str> {
    let (tag, command) =
        parse(text.as_bytes(), NameForm::default()).map_err(|(_, fault)| fault.0)?;
    assert_eq!(tag.as_str(), text.split(' ').next().expect("a tag"));
    Ok(command)
}

/// The command as the debugger shows it.
fn check(text: &str, expected: &str) {
    let command = parsed(text).unwrap_or_else(|fault| panic!("{text:?}: {fault}"));
    assert_eq!(format!("{command:?}"), expected, "{text:?}");
}

fn check_bad(texts: &[&str]) {
    for text in texts {
        assert!(parsed(text).is_err(), "{text:?}: {:?}", parsed(text));
    }
}

#[test]
fn commands_in_any_state() {
    check("a CAPABILITY", "Capability");
    check("a.1]x noop ", "Noop");
    check("a ID NIL", "Id([])");
    check(
        "a ID (\"name\" \"x\" \"os\" NIL)",
        "Id([([110, 97, 109, 101], Some([120])), ([111, 115], None)])",
    );
    check("a ENABLE CONDSTORE UTF8=ACCEPT", "Enable([\"CONDSTORE\", \"UTF8=ACCEPT\"])");
    check("a COMPRESS deflate", "CompressDeflate");
    check(
        "a AUTHENTICATE scram-sha-256 biws",
        "Authenticate { mechanism: \"SCRAM-SHA-256\", initial_response: Some(\"biws\") }",
    );
    check(
        "a AUTHENTICATE PLAIN =",
        "Authenticate { mechanism: \"PLAIN\", initial_response: Some(\"=\") }",
    );
    check(
        "a LOGIN \"a \\\"b\\\"\" c]d",
        "Login { name: [97, 32, 34, 98, 34], password: [99, 93, 100] }",
    );
    check_bad(&[
        "",
        "a",
        " NOOP",
        "a NOOP b",
        "a+b NOOP",
        "a\u{e9} NOOP",
        "a LOGIN",
        "a LOGIN a",
        "a LOGIN a \"b",
        "a LOGIN a \"b\\",
        "a LOGIN a b c",
        "a LOGIN a {3}\r\nab",
        "a LOGIN a {3}abc",
        "a ID",
        "a ID (\"a\")",
        "a ENABLE",
        "a COMPRESS LZ4",
        "a STARTTLS now",
        "a LOGIN {1}\r\n\0 b",
        "a LOGIN a \"b\rc\"",
    ]);
}

#[test]
fn commands_on_mailboxes() {
    check(
        "a SELECT inbox",
        "Select(Select { access: ReadWrite, mailbox: MailboxName(\"INBOX\"), condstore: false, \
         qresync: None })",
    );
    check(
        "a EXAMINE \"x y\" (QRESYNC (67890007 20050715194045000 41,43:211 (1,5 10,15)) CONDSTORE)",
        "Select(Select { access: ReadOnly, mailbox: MailboxName(\"x y\"), condstore: true, \
         qresync: Some(Qresync { uid_validity: 67890007, mod_sequence: 20050715194045000, \
         known_uids: Some(SequenceSet { ranges: [(41, 41), (43, 211)] }), \
         matches: Some((SequenceSet { ranges: [(1, 1), (5, 5)] }, \
         SequenceSet { ranges: [(10, 10), (15, 15)] })) }) })",
    );
    check(
        "a SELECT x (QRESYNC (1 2 (3 4)))",
        "Select(Select { access: ReadWrite, mailbox: MailboxName(\"x\"), condstore: false, \
         qresync: Some(Qresync { uid_validity: 1, mod_sequence: 2, known_uids: None, \
         matches: Some((SequenceSet { ranges: [(3, 3)] }, SequenceSet { ranges: [(4, 4)] })) }) })",
    );
    check(
        "a CREATE x (USE (\\Sent \\Foo))",
        "Create { mailbox: MailboxName(\"x\"), special_uses: None }",
    );
    check("a CREATE x/", "Create { mailbox: MailboxName(\"x/\"), special_uses: Some([]) }");
    check(
        "a CREATE x (USE (\\Sent \\archive))",
        "Create { mailbox: MailboxName(\"x\"), special_uses: Some([Sent, Archive]) }",
    );
    check("a RENAME a {1}\r\nb", "Rename { from: MailboxName(\"a\"), to: MailboxName(\"b\") }");
    check("a DELETE &AOk-", "Delete(MailboxName(\"é\"))");
    check("a SUBSCRIBE \"é\"", "Subscribe(MailboxName(\"é\"))");
    check("a GETQUOTAROOT inbox", "GetQuotaRoot(MailboxName(\"INBOX\"))");
    check("a GETQUOTA \"\"", "GetQuota { root: [] }");
    check(
        "a STATUS x (messages UIDNEXT SIZE HIGHESTMODSEQ MAILBOXID)",
        "Status { mailbox: MailboxName(\"x\"), items: [Messages, UidNext, Size, HighestModSeq, \
         MailboxId] }",
    );
    check_bad(&[
        "a SELECT",
        "a SELECT x y",
        "a SELECT x (FOO)",
        "a SELECT x (QRESYNC (1))",
        "a SELECT x (QRESYNC (1 2 *))",
        "a SELECT x (QRESYNC (1 2 3:*))",
        "a SELECT a&b",
        "a CREATE x (USE (Foo))",
        "a CREATE x (FOO)",
        "a RENAME a",
        "a STATUS x",
        "a STATUS x ()",
        "a STATUS x (FOO)",
        "a DELETE \"a\0\"",
        "a SELECT {1}\r\n\n",
    ]);
}

#[test]
fn lists() {
    check("a LSUB \"\" *", "Lsub { reference: \"\", pattern: \"*\" }");
    let list = |text: &str, expected: List| {
        assert_eq!(parsed(text), Ok(Command::List(expected)), "{text:?}");
    };
    let patterns = |patterns: &[&str]| patterns.iter().map(|it| (*it).to_owned()).collect();
    list("a LIST \"\" %", List { patterns: patterns(&["%"]), ..List::default() });
    list(
        "a LIST a/ \"b %\"",
        List { reference: "a/".into(), patterns: patterns(&["b %"]), ..List::default() },
    );
    let mut extended = List { patterns: patterns(&["a*", "&-]%"]), ..List::default() };
    extended.patterns[1] = "&]%".into();
    extended.is_extended = true;
    extended.selection.subscribed = true;
    extended.selection.recursive_match = true;
    extended.returns.children = true;
    extended.returns.status = vec![StatusItem::Messages, StatusItem::Unseen];
    list(
        "a LIST (SUBSCRIBED RECURSIVEMATCH) \"\" (a* &-]%) \
         RETURN (CHILDREN STATUS (MESSAGES UNSEEN))",
        extended,
    );
    let mut empty = List { patterns: patterns(&["*"]), is_extended: true, ..List::default() };
    list("a LIST () \"\" * RETURN ()", empty.clone());
    empty.returns.special_use = true;
    list("a LIST \"\" * RETURN (SPECIAL-USE)", empty);
    check_bad(&[
        "a LIST",
        "a LIST \"\"",
        "a LIST (RECURSIVEMATCH) \"\" *",
        "a LIST (FOO) \"\" *",
        "a LIST \"\" ()",
        "a LIST \"\" * RETURN",
        "a LIST \"\" * FOO",
        "a LIST \"\" * RETURN (FOO)",
        "a LSUB \"\"",
        "a LIST \"\" (",
    ]);
}

#[test]
fn searches() {
    let search = |keys: &str, expected: &str| {
        let Ok(Command::Search(search)) = parsed(&format!("a SEARCH {keys}")) else {
            panic!("{keys:?}: {:?}", parsed(&format!("a SEARCH {keys}")));
        };
        assert_eq!(format!("{:?}", search.criteria.key), expected, "{keys:?}");
    };
    search("ALL", "All");
    search("*:*", "Sequence(Set(SequenceSet { ranges: [(0, 0)] }))");
    search("$ UID 1:2", "And([Sequence(Saved), Uid(Set(SequenceSet { ranges: [(1, 2)] }))])");
    search("NOT (SEEN UNFLAGGED)", "Not(And([Has(SystemFlags(1)), Lacks(SystemFlags(4))]))");
    search("OR NEW OR OLD RECENT", "Or(New, Or(Old, Recent))");
    search("(ALL)", "All");
    search("SUBJECT \"a b\" FROM c", "And([Subject([97, 32, 98]), From([99])])");
    search(
        "HEADER Message-ID \"\"",
        "Header { name: [77, 101, 115, 115, 97, 103, 101, 45, 73, 68], text: [] }",
    );
    search("SINCE 2-Jan-1970 SENTON \"1-Jan-1970\"", "And([Since(1), SentOn(0)])");
    search("LARGER 5 SMALLER 0 OLDER 1", "And([Larger(5), Smaller(0), Older(1)])");
    search("MODSEQ \"/flags/\\\\draft\" all 620162338", "ModSeq(620162338)");
    search("MODSEQ 0", "ModSeq(0)");
    search("KEYWORD $Junk EMAILID M1", "And([Keyword(\"$Junk\"), EmailId([77, 49])])");
    let text = "a UID SEARCH RETURN (MIN COUNT save) CHARSET UTF-8 TEXT {2}\r\n\u{e9}";
    let Ok(Command::Search(found)) = parsed(text) else { panic!("{:?}", parsed(text)) };
    assert_eq!(found.numbering, Numbering::Uid);
    assert_eq!(found.criteria.charset.as_deref(), Some("UTF-8"));
    let returns = found.returns.expect("RETURN");
    assert!(returns.min && returns.count && returns.save && !returns.all && !returns.max);
    let nested = |depth: usize| format!("a SEARCH {}ALL{}", "(".repeat(depth), ")".repeat(depth));
    assert!(parsed(&nested(64)).is_ok());
    assert!(parsed(&nested(65)).is_err());
    assert!(parsed(&format!("a SEARCH {}ALL", "NOT ".repeat(10_000))).is_err());
    check_bad(&[
        "a SEARCH",
        "a SEARCH FOO",
        "a SEARCH FOO x",
        "a SEARCH ()",
        "a SEARCH SUBJECT",
        "a SEARCH OR ALL",
        "a SEARCH 0",
        "a SEARCH SINCE 30-Feb-2000",
        "a SEARCH RETURN (FOO) ALL",
        "a SEARCH RETURN (MIN)",
        "a SEARCH (ALL",
        "a SEARCH LARGER -1",
        "a SEARCH CHARSET UTF-8",
        "a SEARCH HEADER x",
        "a SEARCH 1 ALL)",
        "a SEARCH MODSEQ \"x\" foo 1",
    ]);
}

#[test]
fn sorts_and_threads() {
    let Ok(Command::Sort(sort)) = parsed("a UID SORT (REVERSE DATE SUBJECT) UTF-8 ALL") else {
        panic!("a sort");
    };
    assert_eq!(
        format!("{:?}", sort.keys),
        "[SortKey { field: Date, order: Descending }, SortKey { field: Subject, order: Ascending }]"
    );
    check(
        "a THREAD REFERENCES US-ASCII SEEN",
        "Thread(Thread { numbering: Sequence, algorithm: References, criteria: Criteria { \
         charset: Some(\"US-ASCII\"), key: Has(SystemFlags(1)) } })",
    );
    assert!(parsed("a SORT RETURN (COUNT) (ARRIVAL) UTF-8 ALL").is_ok());
    check_bad(&[
        "a SORT () UTF-8 ALL",
        "a SORT (FOO) UTF-8 ALL",
        "a SORT (DATE) UTF-8",
        "a SORT (DATE)",
        "a THREAD FOO UTF-8 ALL",
        "a SORT (REVERSE) UTF-8 ALL",
    ]);
}

#[test]
fn fetches() {
    let items = |items: &str, expected: &str| {
        let text = format!("a FETCH 1 {items}");
        let Ok(Command::Fetch(fetch)) = parsed(&text) else { panic!("{:?}", parsed(&text)) };
        assert_eq!(format!("{:?}", fetch.items), expected, "{items:?}");
    };
    items("FULL", "[Flags, InternalDate, Rfc822Size, Envelope, Body]");
    items("(UID uid FLAGS)", "[Uid, Flags]");
    items(
        "BODY.PEEK[]<0.65536>",
        "[Section { section: Section { part: [], text: Whole }, \
         partial: Some(Partial { offset: 0, bytes_max: 65536 }), seen: No }]",
    );
    items(
        "(BODY[1.2.MIME] BODY[TEXT])",
        "[Section { section: Section { part: [1, 2], text: Mime }, partial: None, seen: Yes }, \
         Section { section: Section { part: [], text: Text }, partial: None, seen: Yes }]",
    );
    items("(BODY BODYSTRUCTURE MODSEQ)", "[Body, BodyStructure, ModSeq]");
    items(
        "(RFC822 RFC822.HEADER RFC822.TEXT RFC822.SIZE)",
        "[Rfc822, Rfc822Header, Rfc822Text, Rfc822Size]",
    );
    items(
        "(BINARY.PEEK[1]<2.3> BINARY.SIZE[1.2] BINARY[])",
        "[Binary { part: [1], partial: Some(Partial { offset: 2, bytes_max: 3 }), seen: No }, \
         BinarySize { part: [1, 2] }, Binary { part: [], partial: None, seen: Yes }]",
    );
    items("(PREVIEW (LAZY) UID)", "[Preview(Lazy), Uid]");
    items("PREVIEW", "[Preview(Always)]");
    items("(EMAILID THREADID SAVEDATE)", "[EmailId, ThreadId, SaveDate]");
    let text = "a UID FETCH 1:* (FLAGS) (CHANGEDSINCE 12345 VANISHED)";
    let Ok(Command::Fetch(fetch)) = parsed(text) else { panic!("{:?}", parsed(text)) };
    assert_eq!((fetch.changed_since, fetch.vanished), (Some(12345), true));
    check_bad(&[
        "a FETCH",
        "a FETCH 1",
        "a FETCH 1 ()",
        "a FETCH 1 FOO",
        "a FETCH 1 (FLAGS",
        "a FETCH 0 UID",
        "a FETCH 1 BODY[",
        "a FETCH 1 BODY[0]",
        "a FETCH 1 BODY[1.]",
        "a FETCH 1 BODY[MIME]",
        "a FETCH 1 BODY[HEADER.FIELDS ()]",
        "a FETCH 1 BODY[]<0.0>",
        "a FETCH 1 BODY[]<1>",
        "a FETCH 1 FLAGS (VANISHED)",
        "a UID FETCH 1 FLAGS (VANISHED)",
        "a FETCH 1 BINARY[TEXT]",
        "a FETCH 1 BODY.PEEK",
        "a FETCH 1 FLAGS (CHANGEDSINCE)",
        "a FETCH 1 (ALL)",
    ]);
}

#[test]
fn a_section_is_written_as_it_was_asked_for() {
    for section in [
        "",
        "1",
        "1.2.MIME",
        "TEXT",
        "3.HEADER",
        "HEADER.FIELDS (To \"a b\")",
        "2.HEADER.FIELDS.NOT (X)",
    ] {
        let text = format!("a FETCH 1 BODY[{section}]");
        let Ok(Command::Fetch(fetch)) = parsed(&text) else { panic!("{:?}", parsed(&text)) };
        let [crate::proto::imap::fetch::FetchItem::Section { section: found, .. }] =
            fetch.items.as_slice()
        else {
            panic!("{:?}", fetch.items);
        };
        let mut out = Vec::new();
        found.write(&mut out);
        assert_eq!(String::from_utf8_lossy(&out), section);
    }
}

#[test]
fn stores_copies_and_moves() {
    check(
        "a UID STORE $ (UNCHANGEDSINCE 5) +FLAGS.SILENT (\\Seen $x \\Recent)",
        "Store(Store { numbering: Uid, messages: Saved, unchanged_since: Some(5), change: Add, \
         is_silent: true, flags: Flags { system: SystemFlags(1), keywords: [\"$x\"] } })",
    );
    check(
        "a STORE 1 FLAGS \\Deleted \\Draft",
        "Store(Store { numbering: Sequence, messages: Set(SequenceSet { ranges: [(1, 1)] }), \
         unchanged_since: None, change: Replace, is_silent: false, \
         flags: Flags { system: SystemFlags(24), keywords: [] } })",
    );
    check(
        "a STORE 1 -FLAGS ()",
        "Store(Store { numbering: Sequence, messages: Set(SequenceSet { ranges: [(1, 1)] }), \
         unchanged_since: None, change: Remove, is_silent: false, \
         flags: Flags { system: SystemFlags(0), keywords: [] } })",
    );
    check(
        "a UID MOVE 1:3 inbox",
        "Move { numbering: Uid, messages: Set(SequenceSet { ranges: [(1, 3)] }), \
         mailbox: MailboxName(\"INBOX\") }",
    );
    check("a UID EXPUNGE 4", "UidExpunge(Set(SequenceSet { ranges: [(4, 4)] }))");
    check_bad(&[
        "a STORE 1 FLAGS",
        "a STORE 1 FLAGS (\\Foo)",
        "a STORE 1 FOO (\\Seen)",
        "a STORE 1 +-FLAGS ()",
        "a STORE 1 (FOO 1) FLAGS ()",
        "a COPY 1",
        "a COPY x y",
        "a UID EXPUNGE",
        "a UID NOOP",
        "a MOVE 1:2:3 x",
        "a EXPUNGE 1",
    ]);
}
