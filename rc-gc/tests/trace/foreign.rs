//! Containers of other crates: one test for each feature.

use rc_gc::Gc;

use crate::{collected, is_leaf};

#[cfg(feature = "arrayvec")]
#[test]
fn arrayvec_holds_handles() {
    assert!(collected(|h| arrayvec::ArrayVec::<_, 3>::from_iter([h.clone(), h])));
    assert!(is_leaf::<arrayvec::ArrayString<8>>() && is_leaf::<arrayvec::ArrayVec<u8, 3>>());
}

#[cfg(feature = "bytes")]
#[test]
fn bytes_are_leaves() {
    // A cycle beside them.
    assert!(collected(|h| (bytes::Bytes::from_static(b"bytes"), bytes::BytesMut::new(), h)));
    assert!(is_leaf::<bytes::Bytes>() && is_leaf::<bytes::BytesMut>());
}

#[cfg(feature = "either")]
#[test]
fn either_holds_handles() {
    assert!(collected(either::Either::<_, u8>::Left));
    assert!(collected(either::Either::<u8, _>::Right));
}

#[cfg(feature = "hashbrown")]
#[test]
fn hashbrown_holds_handles() {
    use std::hash::{BuildHasherDefault, DefaultHasher};

    use crate::Key;
    type Hasher = BuildHasherDefault<DefaultHasher>;
    assert!(collected(|h| hashbrown::HashSet::<_, Hasher>::from_iter([Key(h, 0)])));
    assert!(collected(|h| hashbrown::HashMap::<_, _, Hasher>::from_iter([(Key(h, 0), 0)])));
    assert!(collected(|h| hashbrown::HashMap::<_, _, Hasher>::from_iter([(0, h)])));
    assert!(collected(|h| {
        let mut table = hashbrown::HashTable::new();
        table.insert_unique(0, h, |_| 0);
        table
    }));
}

#[cfg(feature = "indexmap")]
#[test]
fn indexmap_holds_handles() {
    use crate::Key;
    assert!(collected(|h| indexmap::IndexSet::from([Key(h, 0)])));
    assert!(collected(|h| indexmap::IndexMap::from([(Key(h.clone(), 0), h)])));
    assert!(collected(|h| indexmap::IndexMap::from([(0, h)])));
}

#[cfg(feature = "once_cell")]
#[test]
fn once_cell_holds_handles() {
    assert!(collected(once_cell::unsync::OnceCell::with_value));
    assert!(collected(once_cell::sync::OnceCell::with_value));
    assert!(collected(|h| {
        let lazy = once_cell::unsync::Lazy::new(move || h);
        once_cell::unsync::Lazy::force(&lazy);
        lazy
    }));
    assert!(collected(|h| {
        let lazy = once_cell::sync::Lazy::new(move || h);
        once_cell::sync::Lazy::force(&lazy);
        lazy
    }));
}

#[cfg(feature = "parking_lot")]
#[test]
fn parking_lot_holds_handles_and_hides_them_while_locked() {
    use parking_lot::{FairMutex, Mutex, ReentrantMutex, RwLock};
    assert!(collected(Mutex::new));
    assert!(collected(FairMutex::new));
    assert!(collected(ReentrantMutex::new));
    assert!(collected(RwLock::new));

    #[derive(rc_gc::Trace)]
    struct Guarded(Mutex<Option<Gc<Guarded>>>, RwLock<Option<Gc<Guarded>>>);
    let g = Gc::new(Guarded(Mutex::new(None), RwLock::new(None)));
    *g.0.lock() = Some(g.clone());
    let locked = g.0.lock();
    assert_eq!(rc_gc::collect(), 0);
    drop(locked);
    let written = g.1.write();
    assert_eq!(rc_gc::collect(), 0);
    drop(written);
    drop(g);
    assert_eq!(rc_gc::collect(), 1);
    assert!(is_leaf::<parking_lot::Once>() && is_leaf::<parking_lot::Condvar>());
}

#[cfg(feature = "serde_json")]
#[test]
fn serde_json_values_are_leaves() {
    let value: serde_json::Value = serde_json::from_str("[1, {\"a\": null}]").expect("JSON");
    assert!(collected(|h| (value, h)));
    assert!(is_leaf::<serde_json::Value>() && is_leaf::<serde_json::Number>());
}

#[cfg(feature = "slotmap")]
#[test]
fn slotmap_holds_handles() {
    use slotmap::{DefaultKey, DenseSlotMap, SecondaryMap, SlotMap, SparseSecondaryMap};
    assert!(collected(|h| {
        let mut map = SlotMap::new();
        map.insert(h.clone());
        let freed = map.insert(h.clone());
        map.remove(freed);
        map.insert(h);
        map
    }));
    assert!(collected(|h| {
        let mut map = DenseSlotMap::new();
        map.insert(h);
        map
    }));
    let key = SlotMap::new().insert(());
    assert!(collected(|h| SecondaryMap::from_iter([(key, h)])));
    assert!(collected(|h| SparseSecondaryMap::<_, _>::from_iter([(key, h)])));
    assert!(is_leaf::<DefaultKey>() && is_leaf::<SlotMap<DefaultKey, u8>>());
    #[expect(deprecated, reason = "a type of old programs may hold one")]
    fn hop(h: Gc<crate::Holder>) -> slotmap::HopSlotMap<DefaultKey, Gc<crate::Holder>> {
        let mut map = slotmap::HopSlotMap::new();
        map.insert(h);
        map
    }
    assert!(collected(hop));
    slotmap::new_key_type! {
        #[derive(rc_gc::Trace)]
        struct Own;
    }
    assert!(is_leaf::<Own>());
    assert!(collected(|h| {
        let mut map = SlotMap::<Own, _>::with_key();
        let key = map.insert(h);
        (key, map)
    }));
}

#[cfg(feature = "smallvec")]
#[test]
fn smallvec_holds_handles_inline_and_spilled() {
    type Small<T> = smallvec::SmallVec<[T; 2]>;
    assert!(collected(|h| Small::from_iter([h])));
    assert!(collected(|h| Small::from_iter([h.clone(), h.clone(), h])));
    assert!(is_leaf::<Small<u8>>());
}
