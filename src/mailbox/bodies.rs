//! Where the octets of messages stand, each body once however many mailboxes have it. `Pure.`

use std::collections::HashMap;

use hashbrown::HashTable;

use super::codec::{Body, BodyId};
use crate::journal::Location;

/// Which body, as messages name it. 4 bytes a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BodyHandle(u32);

/// The bodies of a partition, in slots that are used again. 32 bytes and a hash slot each.
#[derive(Default)]
pub struct Bodies {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_id: HashTable<u32>,
    /// Of those whose content stands apart.
    chunks: HashMap<u32, Box<[Location]>>,
}

#[derive(Clone, Copy)]
struct Slot {
    /// 0 for a free one.
    id: u64,
    place: Location,
    bytes: u32,
    /// Messages that have it, expunged ones that are kept included.
    uses: u32,
}

impl Bodies {
    /// Notes where a body stands, whether it is known or not.
    pub fn place(&mut self, body: &Body) -> BodyHandle {
        let handle = match self.find(body.id) {
            Some(handle) => {
                let slot = &mut self.slots[handle.0 as usize];
                (slot.place, slot.bytes) = (body.place, body.bytes);
                self.chunks.remove(&handle.0);
                handle
            }
            None => self.insert(body),
        };
        if !body.chunks.is_empty() {
            self.chunks.insert(handle.0, body.chunks.as_slice().into());
        }
        handle
    }

    fn insert(&mut self, body: &Body) -> BodyHandle {
        assert!(body.id.0 != 0, "0 stands for a free slot");
        let slot = Slot { id: body.id.0, place: body.place, bytes: body.bytes, uses: 0 };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        let slots = &self.slots;
        self.by_id.insert_unique(hash_of(slot.id), index, |it| hash_of(slots[*it as usize].id));
        BodyHandle(index)
    }

    pub fn find(&self, id: BodyId) -> Option<BodyHandle> {
        let found = self.by_id.find(hash_of(id.0), |it| self.slots[*it as usize].id == id.0);
        found.map(|index| BodyHandle(*index))
    }

    /// One message more has it.
    pub fn add_use(&mut self, handle: BodyHandle) {
        self.slots[handle.0 as usize].uses += 1;
    }

    /// Messages that have it, expunged ones that are kept included.
    pub fn use_count(&self, handle: BodyHandle) -> u32 {
        self.slots[handle.0 as usize].uses
    }

    /// One message less has it. After the last the body is forgotten and returned.
    pub fn drop_use(&mut self, handle: BodyHandle) -> Option<Body> {
        let slot = &mut self.slots[handle.0 as usize];
        assert!(slot.uses > 0, "a message has it");
        slot.uses -= 1;
        (slot.uses == 0).then(|| self.remove(handle))
    }

    /// Forgets the bodies that no message has: of those that replay met whose messages were gone.
    pub fn drop_unused(&mut self) {
        for index in 0..self.slots.len() {
            let slot = self.slots[index];
            if slot.id != 0 && slot.uses == 0 {
                self.remove(BodyHandle(index as u32));
            }
        }
    }

    fn remove(&mut self, handle: BodyHandle) -> Body {
        let body = self.body(handle);
        let entry = self.by_id.find_entry(hash_of(body.id.0), |index| *index == handle.0);
        entry.expect("every body is found by its number").remove();
        self.chunks.remove(&handle.0);
        self.slots[handle.0 as usize].id = 0;
        self.free.push(handle.0);
        body
    }

    pub fn id(&self, handle: BodyHandle) -> BodyId {
        BodyId(self.slots[handle.0 as usize].id)
    }

    /// Octets of the message.
    pub fn bytes(&self, handle: BodyHandle) -> u32 {
        self.slots[handle.0 as usize].bytes
    }

    pub fn body(&self, handle: BodyHandle) -> Body {
        let Slot { id, place, bytes, .. } = self.slots[handle.0 as usize];
        let chunks = self.chunks.get(&handle.0).map(|chunks| chunks.to_vec()).unwrap_or_default();
        Body { id: BodyId(id), place, bytes, chunks }
    }

    /// The body, if the handle is still that of this one.
    pub fn body_if(&self, handle: BodyHandle, id: BodyId) -> Option<Body> {
        (self.id(handle) == id).then(|| self.body(handle))
    }

    pub fn count(&self) -> usize {
        self.by_id.len()
    }

    /// Shows bodies from `from` on, `count` slots at most. Returns where to go on, `None` at the
    /// end.
    pub fn visit(&self, from: u32, count: u32, mut visit: impl FnMut(BodyHandle)) -> Option<u32> {
        let end = from.saturating_add(count).min(self.slots.len() as u32);
        for index in from..end {
            if self.slots[index as usize].id != 0 {
                visit(BodyHandle(index));
            }
        }
        (end < self.slots.len() as u32).then_some(end)
    }

    /// Whether something of the body stands in a slot of the journal.
    pub fn is_in(&self, handle: BodyHandle, journal_slot: u16) -> bool {
        let chunks = self.chunks.get(&handle.0).into_iter().flatten();
        self.slots[handle.0 as usize].place.slot == journal_slot
            || chunks.clone().any(|chunk| chunk.slot == journal_slot)
    }

    /// Bodies whose content stands at `chunk`, at least partly: several where one message came for
    /// several mailboxes.
    pub fn sharing(&self, chunk: Location) -> Vec<BodyHandle> {
        let sharing = self.chunks.iter().filter(|(_, chunks)| chunks.contains(&chunk));
        let mut handles: Vec<u32> = sharing.map(|(index, _)| *index).collect();
        handles.sort_unstable();
        handles.into_iter().map(BodyHandle).collect()
    }

    /// Memory in bytes.
    pub fn memory_bytes(&self) -> usize {
        let chunks = self.chunks.values().map(|chunks| chunks.len() * size_of::<Location>() + 24);
        self.slots.capacity() * size_of::<Slot>()
            + self.free.capacity() * 4
            + self.by_id.allocation_size()
            + chunks.sum::<usize>()
    }
}

impl Body {
    /// What holds its segments, and how many bytes.
    pub fn pins(&self) -> impl Iterator<Item = (Location, u64)> {
        let places = std::iter::once(&self.place).chain(&self.chunks);
        places.map(|place| (*place, u64::from(place.record_bytes)))
    }
}

/// Numbers are given out one after the other: by its low bits, which choose the place in the table,
/// each has one of its own, and what came together stands together. The seven high bits are what a
/// table compares before it looks at a slot.
fn hash_of(id: u64) -> u64 {
    let mixed = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed << 57 ^ id
}

const _: () = assert!(size_of::<Slot>() == 32);

#[cfg(test)]
mod tests {
    use super::*;

    fn body(id: u64, chunks: u16) -> Body {
        let place = |slot| Location { slot, block: 2, epoch_low: 1, in_frame: 64, record_bytes: 9 };
        let chunks = (0..chunks).map(|slot| place(100 + slot)).collect();
        Body { id: BodyId(id), place: place(id as u16), bytes: 1000 + id as u32, chunks }
    }

    #[test]
    fn a_body_lives_as_long_as_some_message_has_it() {
        let mut bodies = Bodies::default();
        let one = bodies.place(&body(1, 0));
        let other = bodies.place(&body(2, 3));
        bodies.add_use(one);
        bodies.add_use(other);
        bodies.add_use(other);
        assert_eq!(bodies.drop_use(other), None);
        assert_eq!(bodies.drop_use(other), Some(body(2, 3)));
        assert_eq!((bodies.find(BodyId(2)), bodies.find(BodyId(1))), (None, Some(one)));
        let third = bodies.place(&body(3, 0));
        assert_eq!(third, other, "slots are used again");
        assert_eq!(bodies.body(third), body(3, 0), "without the chunks of the one before");
        bodies.drop_unused();
        assert_eq!((bodies.count(), bodies.find(BodyId(3))), (1, None));
    }

    #[test]
    fn a_body_is_known_by_where_it_stands_now() {
        let mut bodies = Bodies::default();
        let one = bodies.place(&body(1, 2));
        let other = bodies.place(&body(2, 2));
        let shared = body(1, 2).chunks[0];
        assert_eq!(bodies.sharing(shared), [one, other]);
        assert!(bodies.is_in(one, 1) && bodies.is_in(one, 101) && !bodies.is_in(one, 2));
        assert_eq!(bodies.place(&Body { id: BodyId(1), ..body(7, 0) }), one);
        assert_eq!(bodies.body(one).place.slot, 7);
        assert_eq!(bodies.sharing(shared), [other]);
        let mut seen = Vec::new();
        assert_eq!(bodies.visit(0, 1, |handle| seen.push(handle)), Some(1));
        assert_eq!(bodies.visit(1, 9, |handle| seen.push(handle)), None);
        assert_eq!(seen, [one, other]);
    }
}
