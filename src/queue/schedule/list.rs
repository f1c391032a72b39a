//! Lists through the entries themselves: to enter and to leave costs no memory. `Pure.`

/// Neighbours in the one list an entry is in.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    pub prev: u32,
    pub next: u32,
}

/// Entries that can stand in lists.
pub trait Chain {
    fn links(&mut self, slot: u32) -> &mut Links;
}

/// No entry.
pub const NONE: u32 = u32::MAX;

/// First and last of a list.
#[derive(Clone, Copy, Debug)]
pub struct List {
    head: u32,
    tail: u32,
}

impl Default for Links {
    fn default() -> Self {
        Self { prev: NONE, next: NONE }
    }
}

impl Default for List {
    fn default() -> Self {
        Self { head: NONE, tail: NONE }
    }
}

impl List {
    pub fn is_empty(&self) -> bool {
        self.head == NONE
    }

    pub fn first(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    /// Whether there is one entry and no second.
    pub fn is_single(&self) -> bool {
        self.head != NONE && self.head == self.tail
    }

    pub fn push_back(&mut self, chain: &mut impl Chain, slot: u32) {
        *chain.links(slot) = Links { prev: self.tail, next: NONE };
        if self.tail == NONE {
            self.head = slot;
        } else {
            chain.links(self.tail).next = slot;
        }
        self.tail = slot;
    }

    pub fn push_front(&mut self, chain: &mut impl Chain, slot: u32) {
        *chain.links(slot) = Links { prev: NONE, next: self.head };
        if self.head == NONE {
            self.tail = slot;
        } else {
            chain.links(self.head).prev = slot;
        }
        self.head = slot;
    }

    /// Takes an entry of this list out.
    pub fn remove(&mut self, chain: &mut impl Chain, slot: u32) {
        let Links { prev, next } = std::mem::take(chain.links(slot));
        if prev == NONE {
            assert_eq!(self.head, slot);
            self.head = next;
        } else {
            chain.links(prev).next = next;
        }
        if next == NONE {
            assert_eq!(self.tail, slot);
            self.tail = prev;
        } else {
            chain.links(next).prev = prev;
        }
    }

    pub fn pop_front(&mut self, chain: &mut impl Chain) -> Option<u32> {
        let slot = self.first()?;
        self.remove(chain, slot);
        Some(slot)
    }

    /// Puts the first entry behind the others.
    pub fn rotate(&mut self, chain: &mut impl Chain) {
        if !self.is_single()
            && let Some(slot) = self.pop_front(chain)
        {
            self.push_back(chain, slot);
        }
    }
}
