//! The partitions of a shard.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::store::Store;
use crate::runtime::task;

/// The partitions that this shard has. Clones are the same.
#[derive(Clone, Default)]
pub struct Stores {
    by_number: Rc<BTreeMap<u16, Store>>,
}

impl Stores {
    /// The partition of this number, if this shard has it.
    pub fn get(&self, partition: u16) -> Option<&Store> {
        self.by_number.get(&partition)
    }

    /// By number.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &Store)> {
        self.by_number.iter().map(|(number, store)| (*number, store))
    }

    /// Writes a last checkpoint to each, and ends when all is durable. Nobody uses them any more.
    pub async fn close(&self) {
        task::join_all(self.by_number.values().map(Store::close)).await;
    }
}

impl FromIterator<(u16, Store)> for Stores {
    fn from_iter<I: IntoIterator<Item = (u16, Store)>>(stores: I) -> Self {
        Self { by_number: Rc::new(stores.into_iter().collect()) }
    }
}
