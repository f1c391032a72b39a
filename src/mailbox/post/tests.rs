use std::path::{Path, PathBuf};

use super::super::date::InternalDate;
use super::super::plan::Target;
use super::super::recovery::Recovered;
use super::*;
use crate::journal::{Journal, JournalConfig, Owner};
use crate::proto::imap::flag::Flags;
use crate::runtime::executor;
use crate::runtime::inbox::{Inbox, InboxSender, inbox};
use crate::runtime::log_ring::Durability;

fn open(data_dir: &Path, partition: u16) -> Store {
    let config = JournalConfig {
        data_dir: data_dir.to_owned(),
        owner: Owner::Partition(partition),
        segment_bytes: 4 << 20,
        bytes_max: 1 << 30,
        min_free_bytes: 0,
        durability: Durability::None,
        log_core: None,
    };
    let mut recovered = Recovered::default();
    let (journal, recovery) = Journal::open(&config, &mut recovered).expect("a directory");
    let store = Store::start(journal, recovered, &recovery, Duration::from_secs(60));
    store.expect("not degraded")
}

/// Some messages are one memo, some are several.
fn content(number: usize) -> Vec<u8> {
    let bytes = match number % 5 {
        0 => 3 * POST_PIECE_BYTES_MAX + 17,
        1 => POST_PIECE_BYTES_MAX,
        _ => 500,
    };
    format!("message {number}\r\n").bytes().cycle().take(bytes).collect()
}

fn to(account: AccountId, key: Option<u128>) -> Delivery {
    let key = key.map(super::super::codec::DeliveryKey);
    let (to, flags, prefix) = (Target::Inbox(account), Flags::default(), b"X: y\r\n".to_vec());
    Delivery { to, prefix, date: InternalDate::utc(1), flags, key }
}

async fn deliver(post: &Post, partition: u16, content: &[u8], delivery: Delivery) -> Committed {
    let mut draft = post.begin(partition, content.len() as u64)?;
    let mut rest = content;
    while !rest.is_empty() {
        let taken = draft.append(rest);
        rest = &rest[taken..];
        draft.room().await?;
    }
    draft.commit(vec![delivery]).await
}

/// One of two shards with a partition each, whose inboxes hold one memo.
struct Side {
    shard: usize,
    data_dir: PathBuf,
    memos: Inbox<MailboxMemo>,
    senders: [InboxSender<MailboxMemo>; 2],
}

const MESSAGES: usize = 60;

impl Side {
    /// A post, its store, its account, and how often an inbox was full.
    async fn start(self) -> (Post, Store, AccountId, Rc<Cell<usize>>) {
        let store = open(&self.data_dir, self.shard as u16);
        let account = store.add_account("jo@example.test", None).await.expect("room");
        let refused = Rc::new(Cell::new(0));
        let (senders, counted) = (self.senders, refused.clone());
        let send: SendMemo = Rc::new(move |to, memo| {
            let sent = senders[to].try_send(memo);
            counted.set(counted.get() + usize::from(sent.is_err()));
            sent
        });
        let stores = [(self.shard as u16, store.clone())].into_iter().collect();
        let post = Post::start(stores, self.shard, 2, 2, send);
        let (dispatched, mut memos) = (post.clone(), self.memos);
        task::spawn(async move {
            loop {
                dispatched.on_memo(memos.recv().await);
            }
        });
        (post, store, account, refused)
    }
}

fn run_both<F: Future<Output = ()> + 'static>(body: impl Fn(Side) -> F + Send + Copy + 'static) {
    let directory = tempfile::tempdir().expect("a directory");
    let (one, memos_of_one) = inbox(1);
    let (two, memos_of_two) = inbox(1);
    let senders = [one, two];
    let threads = [memos_of_one, memos_of_two].into_iter().enumerate().map(|(shard, memos)| {
        let (data_dir, senders) = (directory.path().to_owned(), senders.clone());
        let side = Side { shard, data_dir, memos, senders };
        executor::spawn("post-test", None, move || body(side)).expect("a thread")
    });
    let threads: Vec<_> = threads.collect();
    for thread in threads {
        thread.join().expect("no panic").expect("no error");
    }
}

#[test]
fn full_inboxes_lose_nothing_and_make_nothing_twice() {
    run_both(|side| async move {
        let shard = side.shard;
        let (post, store, account, refused) = side.start().await;
        // Numbers of accounts are those of the journal: the same on both sides.
        let deliveries = (0..2 * MESSAGES).map(|number| {
            let post = post.clone();
            async move {
                let (partition, number) = ((number % 2) as u16, number / 2 * 2 + shard);
                let content = content(number);
                let key = Some(number as u128);
                let first = deliver(&post, partition, &content, to(account, key)).await;
                let again = deliver(&post, partition, b"x", to(account, key)).await;
                (first, again)
            }
        });
        for (first, again) in task::join_all(deliveries).await {
            let first = first.expect("room");
            assert!(matches!(first[..], [Ok(Delivered::As { .. })]), "{first:?}");
            assert_eq!(again, Ok(vec![Ok(Delivered::Before)]));
        }
        assert!(refused.get() > 0, "inboxes were never full");
        post.quiet(clock::now() + Duration::from_secs(60)).await;
        assert_eq!(store.message_count() as usize, 2 * MESSAGES);
        let inbox = store.read(|it| it.find_mailbox(account, "INBOX").map(|inbox| inbox.id)).await;
        let inbox = inbox.expect("there");
        let mut found = Vec::new();
        for uid in 1..=2 * MESSAGES as u32 {
            let message = store.content(inbox, uid).await.expect("there");
            let mut octets = Vec::new();
            while let Some(piece) = message.piece(octets.len() as u32).await.expect("readable") {
                octets.extend_from_slice(&piece);
            }
            let text = octets.strip_prefix(b"X: y\r\nmessage ").expect("its prefix");
            let number = text.iter().take_while(|octet| octet.is_ascii_digit());
            let number = number.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
            assert_eq!(octets[6..], content(number));
            found.push(number);
        }
        found.sort_unstable();
        assert_eq!(found, (0..2 * MESSAGES).collect::<Vec<_>>());
        store.close().await;
    });
}

#[test]
fn refusals_come_from_the_shard_that_has_the_partition() {
    run_both(|side| async move {
        let shard = side.shard;
        let (post, store, account, _) = side.start().await;
        let quota = super::super::codec::Quota { bytes: 1000, messages: 0 };
        store.set_quota(account, quota).await.expect("there");
        let nobody = AccountId(1 << 40);
        let asked = [(0, account), (1, nobody), (1, account), (0, nobody)];
        // Both sides have set theirs once this agrees.
        while post.over_quota(&asked, 1001).await
            != [Refusal::OverQuota, Refusal::NoSuchAccount, Refusal::OverQuota]
                .into_iter()
                .chain([Refusal::NoSuchAccount])
                .map(Some)
                .collect::<Vec<_>>()
        {
            task::yield_now().await;
        }
        assert_eq!(post.over_quota(&asked[..1], 1000).await, [None]);
        let other = 1 - shard as u16;
        let large = vec![b'x'; 2 * POST_PIECE_BYTES_MAX];
        let told = deliver(&post, other, &large, to(account, None)).await;
        assert_eq!(told, Ok(vec![Err(Refusal::OverQuota)]));
        let told = deliver(&post, other, b"x", to(nobody, None)).await;
        assert_eq!(told, Ok(vec![Err(Refusal::NoSuchAccount)]));
        let told = deliver(&post, shard as u16 + 2, b"x", to(account, None)).await;
        assert_eq!(told, Err(Refusal::NoSuchAccount), "a partition that nobody has");
        let told = deliver(&post, other + 2, b"x", to(account, None)).await;
        assert_eq!(told, Err(Refusal::NoSuchAccount));
        // What is given up is forgotten.
        let mut draft = post.begin(other, 0).expect("room");
        assert_eq!(draft.append(&large), POST_PIECE_BYTES_MAX);
        draft.room().await.expect("room");
        drop(draft);
        post.quiet(clock::now() + Duration::from_secs(60)).await;
        assert_eq!((store.message_count(), post.inner.drafts.borrow().len()), (0, 0));
        assert_eq!(post.inner.bytes_under_way.get(), 0);
        store.close().await;
    });
}

#[test]
fn a_shard_that_does_not_answer_is_waited_for_no_longer_than_it_may() {
    let body = || async {
        for takes_memos in [false, true] {
            let send: SendMemo =
                Rc::new(move |_, memo| if takes_memos { Ok(()) } else { Err(memo) });
            let wait = Duration::from_millis(20);
            let post = Post::new(Stores::default(), (0, 2, 2), send, wait);
            let told = deliver(&post, 1, &content(0), to(AccountId(1), None)).await;
            assert_eq!(told, Err(Refusal::Unavailable));
            assert!(post.inner.waiting.borrow().is_empty());
            assert_eq!(post.inner.bytes_under_way.get(), 0);
            let refusals = post.over_quota(&[(1, AccountId(1))], 1).await;
            assert_eq!(refusals, [Some(Refusal::Unavailable)]);
            post.quiet(clock::now()).await;
        }
    };
    let thread = executor::spawn("post-test", None, body).expect("a thread");
    thread.join().expect("no panic").expect("no error");
}
