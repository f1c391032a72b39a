//! What was put in lately, with a bound. `Pure.`

use std::collections::HashMap;
use std::hash::Hash;

/// A table of two generations: when the younger one is full it becomes the older one, and what was
/// not looked at since is forgotten. No call takes long, none looks for the oldest.
#[derive(Debug)]
pub struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    generation_max: usize,
}

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
    /// Keeps the last half of `count_max` entries at least.
    pub fn new(count_max: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), generation_max: count_max / 2 }
    }

    pub fn get(&mut self, key: &K) -> Option<&mut V> {
        if let Some(value) = self.old.remove(key) {
            self.put(*key, value);
        }
        self.young.get_mut(key)
    }

    pub fn put(&mut self, key: K, value: V) {
        if self.young.len() >= self.generation_max {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }
}

impl<K: Copy + Eq + Hash, V: Default> Recent<K, V> {
    /// The value of a key, made where there is none.
    pub fn entry(&mut self, key: K) -> &mut V {
        if self.get(&key).is_none() {
            self.put(key, V::default());
        }
        self.young.get_mut(&key).expect("it was put in")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_number_has_a_bound() {
        let mut recent = Recent::new(8);
        *recent.entry(0) = 'a';
        for key in 1..100 {
            recent.put(key, 'b');
            assert_eq!(recent.get(&0), Some(&mut 'a'), "after {key}");
            assert!(recent.young.len() + recent.old.len() <= 8);
        }
        assert_eq!(recent.get(&1), None);
        assert_eq!(recent.get(&98), Some(&mut 'b'));
        recent.put(98, 'c');
        assert_eq!(recent.get(&98), Some(&mut 'c'));
    }
}
