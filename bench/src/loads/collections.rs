//! The standard library's collections and strings, churned. One thread. No unsafe here.

use std::collections::{BTreeMap, HashMap, LinkedList};
use std::fmt::Write as _;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::hint::black_box;

use super::text;
use crate::workload::{Outcome, Scale, fold, fold_bytes, measure};

/// Inserts and removes random keys of a `BTreeMap<u64, Box<[u64; 4]>>` of some 20,000 entries.
pub(crate) fn btreemap_churn(scale: &Scale) -> Outcome {
    let keys = scale.keep(40_000) as u64;
    let units = scale.of(5_000_000);
    let mut rng = scale.rng(0);
    measure(|| {
        let mut map = BTreeMap::new();
        let mut sum = 0u64;
        for i in 0..units {
            let key = rng.u64(..keys);
            if let Some(value) = map.remove(&key) {
                let value: Box<[u64; 4]> = value;
                sum = fold(sum, value[0]);
            } else {
                map.insert(key, Box::new([i, key, 0, 0]));
            }
        }
        (units, fold(sum, map.len() as u64))
    })
}

/// Inserts and removes random keys of a `HashMap<u64, String>` of some 20,000 entries.
pub(crate) fn hashmap_churn(scale: &Scale) -> Outcome {
    let keys = scale.keep(40_000) as u64;
    let units = scale.of(8_000_000);
    let mut rng = scale.rng(0);
    measure(|| {
        // A hasher without random keys: the same buckets on every run.
        let mut map: HashMap<u64, String, BuildHasherDefault<DefaultHasher>> = HashMap::default();
        let mut sum = 0u64;
        for i in 0..units {
            let key = rng.u64(..keys);
            if let Some(value) = map.remove(&key) {
                sum = fold(sum, value.len() as u64 + u64::from(value.as_bytes()[0]));
            } else {
                let mut value = String::with_capacity(8 + (key % 57) as usize);
                value.push(char::from(b'a' + (i % 26) as u8));
                map.insert(key, value);
            }
        }
        (units, fold(sum, map.len() as u64))
    })
}

/// Queues on linked lists: pushes at both ends, pops, splits and joins.
pub(crate) fn linked_list(scale: &Scale) -> Outcome {
    const LISTS: usize = 16;
    let units = scale.of(42_000_000);
    let mut rng = scale.rng(0);
    measure(|| {
        let mut lists: Vec<LinkedList<u64>> = Vec::new();
        lists.resize_with(LISTS, LinkedList::new);
        let mut sum = 0u64;
        for i in 0..units {
            let bits = rng.u32(..);
            let at = (bits >> 8) as usize % LISTS;
            match bits % 64 {
                0 if lists[at].len() + lists[(at + 1) % LISTS].len() < 1_000 => {
                    let mut other = std::mem::take(&mut lists[(at + 1) % LISTS]);
                    lists[at].append(&mut other);
                }
                0..=31 if lists[at].len() < 1_000 => lists[at].push_back(i),
                32..=40 if lists[at].len() < 1_000 => lists[at].push_front(i),
                _ => sum = sum.wrapping_add(lists[at].pop_front().unwrap_or(1)),
            }
        }
        (units, fold(sum, lists.iter().map(|list| list.len() as u64).sum()))
    })
}

/// Splits lines of text into words, edits, joins and formats them.
pub(crate) fn strings(scale: &Scale) -> Outcome {
    let source = text::prose();
    let lines: Vec<&str> = source.lines().filter(|line| line.len() > 20).take(4_000).collect();
    let rounds = scale.of(800);
    measure(|| {
        let mut sum = 0u64;
        let mut kept: Vec<String> = Vec::new();
        for round in 0..rounds {
            for (i, line) in lines.iter().enumerate() {
                let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
                words.reverse();
                for word in words.iter_mut().step_by(3) {
                    *word = word.to_uppercase();
                }
                let mut joined = words.join("-");
                write!(joined, " #{i} of round {round}").expect("strings do not fail");
                sum = fold_bytes(sum, joined.as_bytes());
                if i % 4 == 0 {
                    kept.push(joined.replace("THE", "a").chars().rev().collect());
                }
                if kept.len() > 2_000 {
                    kept.drain(..1_000);
                }
            }
        }
        (rounds * lines.len() as u64, fold(sum, kept.len() as u64))
    })
}

/// A binary tree of boxes.
struct Tree {
    left: Option<Box<Tree>>,
    right: Option<Box<Tree>>,
}

impl Tree {
    fn build(depth: u32) -> Box<Tree> {
        let child = |_| Tree::build(depth - 1);
        let (left, right) =
            if depth == 0 { (None, None) } else { (Some(child(0)), Some(child(1))) };
        black_box(Box::new(Tree { left, right }))
    }

    fn count(&self) -> u64 {
        let side = |side: &Option<Box<Tree>>| side.as_ref().map_or(0, |tree| tree.count());
        1 + side(&self.left) + side(&self.right)
    }
}

/// Builds and drops trees of depth 4 to 18, many small and few large, beside a long-lived one.
pub(crate) fn boxed_tree(scale: &Scale) -> Outcome {
    let deepest = if cfg!(test) { 8 } else { 18 };
    let rounds = scale.of(12);
    measure(|| {
        let long_lived = Tree::build(deepest);
        let mut nodes = long_lived.count();
        for _ in 0..rounds {
            for depth in (4..=deepest).step_by(2) {
                for _ in 0..1u32 << (deepest - depth) {
                    nodes += Tree::build(depth).count();
                }
            }
        }
        (nodes, fold(nodes, long_lived.count()))
    })
}
