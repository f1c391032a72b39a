//! FETCH over messages in a journal on a real disk.

use std::cell::RefCell;
use std::io;
use std::path::Path;

use ringpost::access::imap::fetch::{Fetched, Fetcher, Options};
use ringpost::access::imap::selected::{Enabled, Selected};
use ringpost::access::imap::sink::Sink;
use ringpost::limits::CHUNK_BYTES_MAX;
use ringpost::mailbox::codec::MailboxId;
use ringpost::mailbox::{Expunging, Mailbox, Store};
use ringpost::proto::imap::command::Command;
use ringpost::proto::imap::reader::{Event, Reader};
use ringpost::proto::imap::select::Access;
use ringpost::proto::imap::set::NumberSet;
use ringpost::proto::imap::store::FlagChange;

use crate::mailbox::{account_and_inbox, deliver, open, run, to};

/// What a client sees.
#[derive(Default)]
pub struct Seen {
    pub octets: Vec<u8>,
    out: Vec<u8>,
    /// How often something was sent.
    pub writes: usize,
}

impl Sink for Seen {
    fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    async fn send(&mut self, octets: &[u8]) -> io::Result<()> {
        self.octets.append(&mut self.out);
        self.octets.extend_from_slice(octets);
        self.writes += 1;
        Ok(())
    }
}

/// A mailbox of which a client knows all there is.
pub async fn select(store: &Store, mailbox: MailboxId) -> RefCell<Selected> {
    store.claim_recent(mailbox, u32::MAX);
    let watch = store.watch(mailbox);
    let select =
        |mailbox: &Mailbox| Selected::new(mailbox, Access::ReadWrite, watch, Enabled::default());
    RefCell::new(store.read_mailbox(mailbox, select).await.expect("there"))
}

/// A command as a client writes it.
pub fn command(text: &str) -> Command {
    let mut reader = Reader::default();
    let mut out = Vec::new();
    let line = format!("a {text}\r\n");
    match reader.next(line.as_bytes(), &mut out).1 {
        Event::Command { command, .. } => command,
        event => panic!("{text}: {event:?} {}", String::from_utf8_lossy(&out)),
    }
}

pub async fn store_with_inbox(directory: &Path) -> (Store, MailboxId) {
    let store = open(directory).expect("a journal");
    store.add_account("jo@example.test", None).await.expect("room");
    let (_, inbox) = account_and_inbox(&store).await;
    (store, inbox)
}

async fn fetch(
    store: &Store,
    mailbox: MailboxId,
    selected: &RefCell<Selected>,
    uids: &[u32],
    items: &str,
) -> (Vec<u8>, Fetched) {
    let Command::Fetch(fetch) = command(&format!("FETCH 1 {items}")) else { panic!("{items}") };
    let options = Options { may_set_seen: true, tells_modseq: true };
    let fetcher = Fetcher::new(store, mailbox, &fetch, options);
    let uids = uids.iter().map(|uid| (*uid, *uid)).collect();
    let mut seen = Seen::default();
    let fetched = fetcher.run(selected, &uids, &mut seen).await.expect("the client is there");
    seen.send(&[]).await.expect("the client is there");
    (seen.octets, fetched)
}

const NESTED: &str = "Subject: outer\r\nFrom: A <a@b>\r\nX-Other: 1\r\n\
    Content-Type: multipart/mixed; boundary=o\r\n\r\n\
    --o\r\n\r\nfirst\r\n\
    --o\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\nalone\r\n\
    --o\r\nContent-Type: image/x; name=n\r\nContent-Transfer-Encoding: base64\r\n\r\nAAEC\r\n\
    --o\r\nContent-Transfer-Encoding: x-odd\r\n\r\n?\r\n\
    --o--\r\n";

#[test]
fn every_item_of_a_message() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_owned();
    run(move || async move {
        let (store, inbox) = store_with_inbox(&path).await;
        deliver(&store, NESTED.as_bytes(), &[to(inbox, "Return-Path: <>\r\n", None)])
            .await
            .unwrap();
        let selected = select(&store, inbox).await;
        let check = async |items: &str, expected: &str| {
            let (octets, fetched) = fetch(&store, inbox, &selected, &[1], items).await;
            let expected = format!("* 1 FETCH ({expected})\r\n");
            assert_eq!(String::from_utf8_lossy(&octets), expected, "{items}");
            assert_eq!(fetched, Fetched::default(), "{items}");
        };
        let bytes = NESTED.len() + "Return-Path: <>\r\n".len();
        check("(UID RFC822.SIZE FLAGS)", &format!("UID 1 RFC822.SIZE {bytes} FLAGS ()")).await;
        check("(INTERNALDATE)", "INTERNALDATE \"13-Sep-2020 12:26:40 +0000\"").await;
        check("(MODSEQ THREADID)", "MODSEQ (2) THREADID NIL").await;
        check(
            "ENVELOPE",
            "ENVELOPE (NIL \"outer\" ((\"A\" NIL \"a\" \"b\")) ((\"A\" NIL \"a\" \"b\")) \
             ((\"A\" NIL \"a\" \"b\")) NIL NIL NIL NIL NIL)",
        )
        .await;
        let text = "(\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL";
        check(
            "BODY",
            &format!(
                "BODY ({text} \"7BIT\" 5 0)(\"message\" \"rfc822\" NIL NIL NIL \"7BIT\" 23 \
                 (NIL \"inner\" NIL NIL NIL NIL NIL NIL NIL NIL) {text} \"7BIT\" 5 0) 2)(\"image\" \
                 \"x\" (\"name\" \"n\") NIL NIL \"base64\" 4){text} \"x-odd\" 1 0) \"mixed\")"
            ),
        )
        .await;
        check("PREVIEW", "PREVIEW \"first\"").await;
        check("(PREVIEW (LAZY) UID)", "PREVIEW \"first\" UID 1").await;
        check("BODY.PEEK[1]", "BODY[1] {5}\r\nfirst").await;
        check("BODY.PEEK[1.MIME]", "BODY[1.MIME] {2}\r\n\r\n").await;
        check("BODY.PEEK[2]", "BODY[2] {23}\r\nSubject: inner\r\n\r\nalone").await;
        check("BODY.PEEK[2.HEADER]", "BODY[2.HEADER] {18}\r\nSubject: inner\r\n\r\n").await;
        check("BODY.PEEK[2.TEXT]<1.3>", "BODY[2.TEXT]<1> {3}\r\nlon").await;
        check("BODY.PEEK[2.1]<9.3>", "BODY[2.1]<9> {0}\r\n").await;
        check(
            "BODY.PEEK[2.HEADER.FIELDS (subject x)]",
            "BODY[2.HEADER.FIELDS (subject x)] {18}\r\nSubject: inner\r\n\r\n",
        )
        .await;
        check("(BODY.PEEK[7] BODY.PEEK[1.HEADER])", "BODY[7] NIL BODY[1.HEADER] NIL").await;
        check(
            "BODY.PEEK[HEADER.FIELDS (FROM Date)]",
            "BODY[HEADER.FIELDS (FROM Date)] {17}\r\nFrom: A <a@b>\r\n\r\n",
        )
        .await;
        check(
            "BODY.PEEK[HEADER.FIELDS (X-Other Return-path)]",
            "BODY[HEADER.FIELDS (X-Other Return-path)] {31}\r\n\
             Return-Path: <>\r\nX-Other: 1\r\n\r\n",
        )
        .await;
        check(
            "BODY.PEEK[HEADER.FIELDS.NOT (from content-type X-Other)]<17.7>",
            "BODY[HEADER.FIELDS.NOT (from content-type X-Other)]<17> {7}\r\nSubject",
        )
        .await;
        check("BINARY.PEEK[3]", "BINARY[3] ~{3}\r\n\u{0}\u{1}\u{2}").await;
        check("BINARY.PEEK[3]<1.1>", "BINARY[3]<1> ~{1}\r\n\u{1}").await;
        check("(BINARY.SIZE[3] BINARY.SIZE[1])", "BINARY.SIZE[3] 3 BINARY.SIZE[1] 5").await;
        let whole = format!("Return-Path: <>\r\n{NESTED}");
        let header = &whole[..whole.find("\r\n\r\n").unwrap() + 4];
        let header = format!("RFC822.HEADER {{{}}}\r\n{header}", header.len());
        check("RFC822.HEADER", &header).await;
        check("BODY.PEEK[]", &format!("BODY[] {{{bytes}}}\r\n{whole}")).await;
        check("BODY.PEEK[]<3.6>", "BODY[]<3> {6}\r\nurn-Pa").await;

        let (octets, fetched) = fetch(&store, inbox, &selected, &[1], "BINARY.PEEK[4]").await;
        assert_eq!((octets.len(), fetched.unknown_encoding), (0, 1));
        store.close().await;
    });
}

#[test]
fn reading_sets_seen_and_tells_it_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_owned();
    run(move || async move {
        let (store, inbox) = store_with_inbox(&path).await;
        for _ in 0..2 {
            deliver(&store, b"A: b\r\n\r\nx\0y", &[to(inbox, "", None)]).await.unwrap();
        }
        let selected = select(&store, inbox).await;
        let uids = [1, 2, 3];
        let (octets, fetched) = fetch(&store, inbox, &selected, &uids, "BODY[TEXT]").await;
        let expected = "* 1 FETCH (BODY[TEXT] {3}\r\nx?y FLAGS (\\Seen) MODSEQ (4))\r\n\
            * 2 FETCH (BODY[TEXT] {3}\r\nx?y FLAGS (\\Seen) MODSEQ (4))\r\n";
        assert_eq!(String::from_utf8_lossy(&octets), expected);
        let both: NumberSet = [(1, 2)].into_iter().collect();
        assert_eq!((fetched.seen.changed, fetched.gone), (both, 0));
        let (octets, fetched) =
            fetch(&store, inbox, &selected, &uids[..1], "(RFC822.TEXT FLAGS)").await;
        let expected = "* 1 FETCH (RFC822.TEXT {3}\r\nx?y FLAGS (\\Seen))\r\n";
        assert_eq!(
            (String::from_utf8_lossy(&octets).as_ref(), fetched.seen.changed.count()),
            (expected, 0)
        );

        // Whoever has not been told that it is gone can read it still.
        let first: NumberSet = [(1, 1)].into_iter().collect();
        store.expunge(inbox, Expunging::All(&first)).await.unwrap();
        let (octets, fetched) =
            fetch(&store, inbox, &selected, &uids[..1], "(FLAGS BODY[]<0.4>)").await;
        let expected = "* 1 FETCH (FLAGS (\\Seen) BODY[]<0> {4}\r\nA: b)\r\n";
        assert_eq!((String::from_utf8_lossy(&octets).as_ref(), fetched.gone), (expected, 0));

        // Its keywords are not known any more: rather nothing than wrong flags.
        let mut junk = ringpost::proto::imap::flag::Flags::default();
        junk.add_keyword("$Junk");
        let (second, add) = ([(2, 2)].into_iter().collect(), FlagChange::Add);
        store.store_flags(inbox, &second, add, &junk, None).await.unwrap();
        let (octets, fetched) = fetch(&store, inbox, &selected, &uids[..1], "(UID FLAGS)").await;
        assert_eq!((octets.len(), fetched.gone), (0, 1));
        let (octets, fetched) = fetch(&store, inbox, &selected, &uids[..1], "UID").await;
        assert_eq!((octets, fetched.gone), (b"* 1 FETCH (UID 1)\r\n".to_vec(), 0));

        let (octets, _) =
            fetch(&store, inbox, &selected, &uids[..1], "(UID) (CHANGEDSINCE 4)").await;
        assert_eq!(octets, b"* 1 FETCH (UID 1 MODSEQ (6))\r\n", "only what changed");
        store.close().await;
    });
}

#[test]
fn long_messages_go_in_pieces_and_short_ones_in_one_write() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_owned();
    run(move || async move {
        let (store, inbox) = store_with_inbox(&path).await;
        let line = b"Some text that is repeated for long.\r\n";
        let text = line.repeat(3 * CHUNK_BYTES_MAX / line.len());
        let encoded = b"AAECAwQFBgcICQ==\r\n".repeat(CHUNK_BYTES_MAX / 9);
        let content = [
            &b"Content-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\n\r\n"[..],
            &text,
            b"\r\n--o\r\nContent-Transfer-Encoding: base64\r\n\r\n",
            &encoded,
            b"\r\n--o--\r\n",
        ]
        .concat();
        deliver(&store, &content, &[to(inbox, "X: y\r\n", None)]).await.unwrap();
        for _ in 0..3 {
            deliver(&store, b"A: b\r\n\r\nshort", &[to(inbox, "", None)]).await.unwrap();
        }
        let selected = select(&store, inbox).await;
        let literal = |name: &str, octets: &[u8]| {
            let front = format!("* 1 FETCH ({name} {{{}}}\r\n", octets.len());
            [front.as_bytes(), octets, b")\r\n"].concat()
        };
        let whole = [&b"X: y\r\n"[..], &content].concat();
        for (items, expected) in [
            ("BODY.PEEK[]", literal("BODY[]", &whole)),
            ("BODY.PEEK[1]", literal("BODY[1]", &text)),
            ("BODY.PEEK[1]<300000.400000>", literal("BODY[1]<300000>", &text[300_000..700_000])),
            ("BODY.PEEK[2]", literal("BODY[2]", &encoded)),
            (
                "BINARY.PEEK[2]<2.280000>",
                literal("BINARY[2]<2> ~", &(0..10).collect::<Vec<u8>>().repeat(28_001)[2..280_002]),
            ),
        ] {
            let (octets, _) = fetch(&store, inbox, &selected, &[1], items).await;
            let expected = String::from_utf8_lossy(&expected).replace("~ {", "~{");
            assert!(octets == expected.as_bytes(), "{items}: {} octets", octets.len());
        }
        let (octets, _) = fetch(&store, inbox, &selected, &[1], "(BINARY.SIZE[2] PREVIEW)").await;
        let size = CHUNK_BYTES_MAX / 9 * 10;
        let expected = format!("* 1 FETCH (BINARY.SIZE[2] {size} PREVIEW \"Some text");
        assert!(octets.starts_with(expected.as_bytes()), "{}", String::from_utf8_lossy(&octets));

        let Command::Fetch(command) = command("FETCH 2:4 BODY.PEEK[]") else { panic!() };
        let options = Options { may_set_seen: false, tells_modseq: false };
        let mut seen = Seen::default();
        let fetcher = Fetcher::new(&store, inbox, &command, options);
        fetcher.run(&selected, &[(2, 4)].into_iter().collect(), &mut seen).await.unwrap();
        assert_eq!(seen.writes, 0, "whoever ends the command sends it");
        assert_eq!(seen.out().len(), 3 * "* 2 FETCH (BODY[] {13}\r\nA: b\r\n\r\nshort)\r\n".len());
        store.close().await;
    });
}
