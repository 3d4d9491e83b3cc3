//! Persistent collections with a history of versions: `rpds`. No unsafe here.

use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, DefaultHasher};

use archery::RcK;
use rpds::{HashTrieMap, RedBlackTreeMap, Vector};

use super::name;
use crate::workload::{Outcome, Scale, fold, measure};

/// A hasher without random keys: the same trie on every run.
type Hasher = BuildHasherDefault<DefaultHasher>;

/// One version of an editor's state; a new one shares all but a few nodes with the last.
#[derive(Clone)]
struct Version {
    by_key: RedBlackTreeMap<u64, String>,
    by_name: HashTrieMap<String, u64, RcK, Hasher>,
    log: Vector<u64>,
}

impl Version {
    fn empty() -> Self {
        Version {
            by_key: RedBlackTreeMap::new(),
            by_name: HashTrieMap::new_with_hasher_and_ptr_kind(Hasher::default()),
            log: Vector::new(),
        }
    }

    /// This version with `key` added, or removed if it was there.
    fn toggled(&self, key: u64, rng: &mut fastrand::Rng) -> Version {
        let (by_key, by_name) = if let Some(name) = self.by_key.get(&key) {
            (self.by_key.remove(&key), self.by_name.remove(name))
        } else {
            let name = format!("{}-{key}", name(rng));
            (self.by_key.insert(key, name.clone()), self.by_name.insert(name, key))
        };
        Version { by_key, by_name, log: self.log.push_back(key) }
    }
}

/// Edits with an undo history of 200 versions; each tenth edit goes back in it.
pub(crate) fn persistent_maps(scale: &Scale) -> Outcome {
    const HISTORY: usize = 200;
    let keys = scale.keep(20_000) as u64;
    let units = scale.of(1_500_000);
    measure(|| {
        let mut rng = scale.rng(0);
        let mut history = VecDeque::from([Version::empty()]);
        let mut sum = 0;
        for _ in 0..units {
            let back = if rng.u8(..10) == 0 { rng.usize(..history.len()) } else { 0 };
            history.truncate(history.len() - back);
            let last = history.back().expect("at least one version stays");
            let next = last.toggled(rng.u64(..keys), &mut rng);
            sum = fold(sum, next.by_key.size() as u64 ^ next.log.len() as u64);
            history.push_back(next);
            if history.len() > HISTORY {
                history.pop_front();
            }
        }
        let last = history.back().expect("at least one version stays");
        assert_eq!(last.by_key.size(), last.by_name.size(), "both maps hold the same entries");
        let keys = last.by_key.iter().map(|(key, name)| fold(*key, last.by_name[name]));
        (units, keys.fold(sum, fold))
    })
}
