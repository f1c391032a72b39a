//! Names that many messages share, each kept once for as long as somebody uses it. `Pure.`

use std::rc::Rc;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use super::super::slab::{FEW, Slab};
use crate::mail::{Class, Stream};

/// Names by small handles, with the count of their users.
#[derive(Default)]
pub struct Names {
    names: Slab<Name, FEW>,
    by_name: HashTable<u32>,
    text_bytes: usize,
}

struct Name {
    text: Rc<str>,
    user_count: u32,
}

impl Names {
    /// The handle of `text`, which has one more user.
    pub fn enter(&mut self, text: &str) -> u32 {
        let hash = xxh3_64(text.as_bytes());
        let names = &mut self.names;
        if let Some(slot) = self.by_name.find(hash, |slot| *names[*slot].text == *text) {
            names[*slot].user_count += 1;
            return *slot;
        }
        self.text_bytes += rc_bytes(text);
        let slot = names.insert(Name { text: text.into(), user_count: 1 });
        self.by_name.insert_unique(hash, slot, |slot| xxh3_64(names[*slot].text.as_bytes()));
        slot
    }

    /// One user less.
    pub fn leave(&mut self, slot: u32) {
        let name = &mut self.names[slot];
        name.user_count -= 1;
        if name.user_count == 0 {
            let name = self.names.remove(slot);
            self.text_bytes -= rc_bytes(&name.text);
            let found = self.by_name.find_entry(xxh3_64(name.text.as_bytes()), |it| *it == slot);
            found.expect("a name can be found").remove();
        }
    }

    pub fn text(&self, slot: u32) -> &Rc<str> {
        &self.names[slot].text
    }

    pub fn bytes(&self) -> usize {
        self.names.bytes() + self.by_name.allocation_size() + self.text_bytes
    }
}

/// The streams that have mail here. Where nobody named a campaign, the domain of the reverse-path
/// tells streams apart: a small sender is not behind a huge one only because neither has a name.
#[derive(Default)]
pub struct Streams {
    streams: Slab<Entry, FEW>,
    by_name: HashTable<u32>,
    tenants: Names,
    text_bytes: usize,
}

struct Entry {
    stream: Rc<Stream>,
    /// Domain of the reverse-path; empty where there is a campaign, and for the null one.
    sender: Box<str>,
    tenant: u32,
    user_count: u32,
}

impl Streams {
    /// The handle of a stream, which has one more user. `sender` is the domain of the
    /// reverse-path, lower case.
    pub fn enter(&mut self, stream: &Stream, sender: &str) -> u32 {
        let sender = if stream.campaign.is_empty() { sender } else { "" };
        let hash = hash_of(stream, sender);
        let streams = &mut self.streams;
        let same =
            |slot: &u32| *streams[*slot].stream == *stream && *streams[*slot].sender == *sender;
        if let Some(slot) = self.by_name.find(hash, same).copied() {
            streams[slot].user_count += 1;
            return slot;
        }
        self.text_bytes += text_bytes(stream, sender);
        let tenant = self.tenants.enter(&stream.tenant);
        let entry =
            Entry { stream: Rc::new(stream.clone()), sender: sender.into(), tenant, user_count: 1 };
        let slot = streams.insert(entry);
        let hash_of_slot = |slot: &u32| hash_of(&streams[*slot].stream, &streams[*slot].sender);
        self.by_name.insert_unique(hash, slot, hash_of_slot);
        slot
    }

    /// One user more of a stream that has one.
    pub fn share(&mut self, slot: u32) {
        self.streams[slot].user_count += 1;
    }

    /// One user less.
    pub fn leave(&mut self, slot: u32) {
        let entry = &mut self.streams[slot];
        entry.user_count -= 1;
        if entry.user_count == 0 {
            let entry = self.streams.remove(slot);
            self.tenants.leave(entry.tenant);
            self.text_bytes -= text_bytes(&entry.stream, &entry.sender);
            let found =
                self.by_name.find_entry(hash_of(&entry.stream, &entry.sender), |it| *it == slot);
            found.expect("a stream can be found").remove();
        }
    }

    pub fn stream(&self, slot: u32) -> &Rc<Stream> {
        &self.streams[slot].stream
    }

    pub fn sender(&self, slot: u32) -> &str {
        &self.streams[slot].sender
    }

    pub fn tenant(&self, slot: u32) -> u32 {
        self.streams[slot].tenant
    }

    pub fn class(&self, slot: u32) -> Class {
        self.streams[slot].stream.class
    }

    pub fn bytes(&self) -> usize {
        let tables = self.by_name.allocation_size() + self.tenants.bytes();
        self.streams.bytes() + tables + self.text_bytes
    }
}

fn hash_of(stream: &Stream, sender: &str) -> u64 {
    let name = |text: &str| xxh3_64(text.as_bytes());
    let campaign = if stream.campaign.is_empty() { name(sender) } else { name(&stream.campaign) };
    mix(name(&stream.tenant) ^ stream.class as u64, campaign)
}

/// A hash of two numbers that are well spread or small.
pub fn mix(one: u64, two: u64) -> u64 {
    let mixed = (one ^ two.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 32
}

fn rc_bytes(text: &str) -> usize {
    2 * size_of::<usize>() + text.len()
}

fn text_bytes(stream: &Stream, sender: &str) -> usize {
    let shared = 2 * size_of::<usize>() + size_of::<Stream>();
    shared + stream.tenant.len() + stream.campaign.len() + sender.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(tenant: &str, campaign: &str) -> Stream {
        Stream { tenant: tenant.into(), campaign: campaign.into(), ..Stream::default() }
    }

    #[test]
    fn a_stream_is_there_once_until_its_last_user_leaves() {
        let mut streams = Streams::default();
        let one = streams.enter(&stream("acme", "spring"), "a.test");
        assert_eq!(streams.enter(&stream("acme", "spring"), "b.test"), one, "it has a campaign");
        let other = streams.enter(&stream("acme", ""), "a.test");
        let third = streams.enter(&stream("acme", ""), "b.test");
        assert!(one != other && other != third && one != third);
        assert_eq!(streams.tenant(one), streams.tenant(third));
        streams.leave(one);
        streams.share(one);
        streams.leave(one);
        assert_eq!(streams.stream(one).campaign, "spring".into());
        for slot in [one, other, third] {
            streams.leave(slot);
        }
        assert_eq!((streams.streams.len(), streams.tenants.names.len()), (0, 0));
        assert_eq!((streams.text_bytes, streams.tenants.text_bytes), (0, 0));
    }
}
