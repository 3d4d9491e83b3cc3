//! `Trace` for types of the standard library and, behind features, of other crates: a cycle through each
//! container is found. Here is the object that can hold anything, to make the cycle.

#[cfg(any(
    feature = "arrayvec",
    feature = "bytes",
    feature = "either",
    feature = "hashbrown",
    feature = "indexmap",
    feature = "once_cell",
    feature = "parking_lot",
    feature = "serde_json",
    feature = "slotmap",
    feature = "smallvec",
))]
mod foreign;
mod std_types;

use std::cell::RefCell;

use rc_gc::{Gc, Trace};

/// An object that holds itself through whatever is put into it.
#[derive(Trace)]
pub(crate) struct Holder(pub(crate) RefCell<Option<Box<dyn Trace>>>);

impl Holder {
    pub(crate) fn new() -> Gc<Holder> {
        Gc::new(Holder(RefCell::new(None)))
    }
}

/// A handle that can be a key.
#[derive(Trace)]
pub(crate) struct Key(pub(crate) Gc<Holder>, pub(crate) u8);

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.1 == other.1
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.1.cmp(&other.1)
    }
}

impl std::hash::Hash for Key {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.1.hash(state);
    }
}

/// Puts a holder into itself, wrapped; how many objects a collection then frees.
pub(crate) fn freed<C: Trace + 'static>(wrap: impl FnOnce(Gc<Holder>) -> C) -> usize {
    let holder = Holder::new();
    let wrapped = wrap(holder.clone());
    *holder.0.borrow_mut() = Some(Box::new(wrapped));
    drop(holder);
    rc_gc::collect()
}

/// Whether a holder that holds itself, wrapped, is collected; and the wrapping is no leaf.
pub(crate) fn collected<C: Trace + 'static>(wrap: impl FnOnce(Gc<Holder>) -> C) -> bool {
    freed(wrap) == 1 && !is_leaf::<C>()
}

/// Whether objects of this type are known to hold no handle.
pub(crate) fn is_leaf<T: Trace>() -> bool {
    !T::holds_gc(3)
}
