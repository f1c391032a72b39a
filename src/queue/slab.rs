//! Entries by small handles, in pages: memory follows the count in steps of a page, and nothing is
//! ever copied to grow. `Pure.`

use std::collections::BTreeSet;
use std::ops::{Index, IndexMut};

/// Entries of type `T`, each in a slot of its own until it is removed. Slots are used again, the
/// lowest pages first, so that the others empty and are given back. A page has `PAGE` of them.
pub(super) struct Slab<T, const PAGE: usize = PAGE_ENTRIES> {
    pages: Vec<Page<T>>,
    /// Pages in memory that have a free slot.
    roomy: BTreeSet<u32>,
    /// Pages that are not in memory.
    absent: BTreeSet<u32>,
    /// Pages in memory without an entry; at most one.
    empty_pages: u32,
    len: usize,
}

struct Page<T> {
    /// None while the page is not in memory.
    entries: Box<[Entry<T>]>,
    first_free: u16,
    used: u16,
}

enum Entry<T> {
    Free { next: u16 },
    Used(T),
}

impl<T, const PAGE: usize> Slab<T, PAGE> {
    /// Bytes of one slot.
    pub const SLOT_BYTES: usize = size_of::<Entry<T>>();

    pub fn len(&self) -> usize {
        self.len
    }

    /// Above every slot in use.
    pub fn slot_end(&self) -> u32 {
        (self.pages.len() * PAGE) as u32
    }

    pub fn insert(&mut self, value: T) -> u32 {
        let number = match self.roomy.first() {
            Some(number) => *number,
            None => self.add_page(),
        };
        let page = &mut self.pages[number as usize];
        let place = page.first_free;
        let entry = &mut page.entries[usize::from(place)];
        let Entry::Free { next } = *entry else { panic!("the list of free slots names free ones") };
        *entry = Entry::Used(value);
        page.first_free = next;
        if page.used == 0 {
            self.empty_pages -= 1;
        }
        page.used += 1;
        if next == END {
            self.roomy.remove(&number);
        }
        self.len += 1;
        number * PAGE as u32 + u32::from(place)
    }

    /// Removes the entry in `slot`, which must be in use.
    pub fn remove(&mut self, slot: u32) -> T {
        let (number, place) = (slot / PAGE as u32, slot % PAGE as u32);
        let page = &mut self.pages[number as usize];
        let free = Entry::Free { next: page.first_free };
        let entry = std::mem::replace(&mut page.entries[place as usize], free);
        let Entry::Used(value) = entry else { panic!("slot {slot} is not in use") };
        if page.first_free == END {
            self.roomy.insert(number);
        }
        page.first_free = place as u16;
        page.used -= 1;
        self.len -= 1;
        if page.used == 0 {
            if self.empty_pages > 0 {
                page.entries = Box::default();
                self.roomy.remove(&number);
                self.absent.insert(number);
            } else {
                self.empty_pages += 1;
            }
        }
        value
    }

    pub fn get(&self, slot: u32) -> Option<&T> {
        let page = self.pages.get(slot as usize / PAGE)?;
        match page.entries.get(slot as usize % PAGE)? {
            Entry::Used(value) => Some(value),
            Entry::Free { .. } => None,
        }
    }

    pub fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        let page = self.pages.get_mut(slot as usize / PAGE)?;
        match page.entries.get_mut(slot as usize % PAGE)? {
            Entry::Used(value) => Some(value),
            Entry::Free { .. } => None,
        }
    }

    /// Memory taken, what entries own elsewhere not counted.
    pub fn bytes(&self) -> usize {
        let present = self.pages.len() - self.absent.len();
        let sets = (self.roomy.len() + self.absent.len()) * 2 * size_of::<u32>();
        present * PAGE * Self::SLOT_BYTES + self.pages.capacity() * size_of::<Page<T>>() + sets
    }

    fn add_page(&mut self) -> u32 {
        let entry = |place: usize| Entry::Free {
            next: if place + 1 < PAGE { place as u16 + 1 } else { END },
        };
        let entries = (0..PAGE).map(entry).collect();
        let page = Page { entries, first_free: 0, used: 0 };
        let number = match self.absent.pop_first() {
            Some(number) => {
                self.pages[number as usize] = page;
                number
            }
            None => {
                self.pages.push(page);
                self.pages.len() as u32 - 1
            }
        };
        self.roomy.insert(number);
        self.empty_pages += 1;
        number
    }
}

impl<T, const PAGE: usize> Default for Slab<T, PAGE> {
    fn default() -> Self {
        Self {
            pages: Vec::new(),
            roomy: BTreeSet::new(),
            absent: BTreeSet::new(),
            empty_pages: 0,
            len: 0,
        }
    }
}

impl<T, const PAGE: usize> Index<u32> for Slab<T, PAGE> {
    type Output = T;

    fn index(&self, slot: u32) -> &T {
        self.get(slot).expect("the slot is in use")
    }
}

impl<T, const PAGE: usize> IndexMut<u32> for Slab<T, PAGE> {
    fn index_mut(&mut self, slot: u32) -> &mut T {
        self.get_mut(slot).expect("the slot is in use")
    }
}

/// Entries of a page where there may be millions.
const PAGE_ENTRIES: usize = 2048;
/// Entries of a page where there are few in general.
pub(super) const FEW: usize = 64;
/// End of a page's list of free slots.
const END: u16 = u16::MAX;
const _: () = assert!(PAGE_ENTRIES < END as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_used_again_and_empty_pages_are_given_back() {
        let mut slab: Slab<usize> = Slab::default();
        let count = 10 * PAGE_ENTRIES;
        let slots: Vec<u32> = (0..count).map(|value| slab.insert(value)).collect();
        let full = slab.bytes();
        assert!(slots.iter().enumerate().all(|(value, slot)| slab[*slot] == value));
        for slot in &slots[PAGE_ENTRIES..] {
            slab.remove(*slot);
        }
        assert_eq!((slab.len(), slab.get(slots[count - 1])), (PAGE_ENTRIES, None));
        assert!(slab.bytes() * 4 < full, "two pages of ten are left");
        let again: Vec<u32> = (0..PAGE_ENTRIES).map(|value| slab.insert(value)).collect();
        assert!(again.iter().all(|slot| (*slot as usize) < count));
        assert_eq!(slab[slots[7]], 7, "the others stand where they stood");
        for value in 0..count - 2 * PAGE_ENTRIES {
            slab.insert(value);
        }
        assert_eq!(slab.slot_end() as usize, count, "absent pages come back first");
    }
}
