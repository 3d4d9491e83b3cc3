//! [`Trace`] for types of other crates, each behind the feature of that crate's name.
//!
//! | feature | passes on to the contents of | reports nothing for |
//! |---|---|---|
//! | `arrayvec` | `ArrayVec` | `ArrayString` |
//! | `bytes` | | `Bytes`, `BytesMut` |
//! | `either` | `Either` | |
//! | `hashbrown` | `HashMap`, `HashSet`, `HashTable` | |
//! | `indexmap` | `IndexMap`, `IndexSet` | |
//! | `once_cell` | `OnceCell`, `Lazy`, each of both kinds; `OnceBox` is left out | |
//! | `parking_lot` | `Mutex`, `FairMutex`, `RwLock`, `ReentrantMutex` (with its own raw locks: a foreign one is user code) | `Once`, `Condvar` |
//! | `serde_json` | | `Value`, `Map`, `Number` |
//! | `slotmap` | `SlotMap`, `DenseSlotMap`, `HopSlotMap`, `SecondaryMap`, `SparseSecondaryMap` | keys; those of `new_key_type!` derive `Trace` |
//! | `smallvec` | `SmallVec` | |
//!
//! As for the standard library's: any hasher, locked locks are left out, nothing panics or waits.

use super::{Trace, Tracer};

#[cfg(feature = "arrayvec")]
mod arrayvec {
    use super::{Trace, Tracer};

    super::super::leaves::leaves!([const N: usize] arrayvec::ArrayString<N>);

    // SAFETY: passes on to each element, once.
    unsafe impl<T: Trace, const N: usize> Trace for arrayvec::ArrayVec<T, N> {
        #[inline]
        fn trace(&self, tracer: &mut Tracer) {
            self.as_slice().trace(tracer);
        }
        #[inline]
        fn holds_gc(depth: u32) -> bool {
            <[T; N]>::holds_gc(depth)
        }
    }
}

#[cfg(feature = "bytes")]
mod bytes {
    use super::{Trace, Tracer};

    super::super::leaves::leaves!([] bytes::Bytes, [] bytes::BytesMut);
}

#[cfg(feature = "either")]
mod either {
    use super::{Trace, Tracer};

    super::super::owners::in_place! {
        [L, R] either::Either<L, R> => |this, tracer| match this {
            either::Either::Left(value) => value.trace(tracer),
            either::Either::Right(value) => value.trace(tracer),
        };
    }
}

#[cfg(feature = "hashbrown")]
mod hashbrown {
    use super::super::owners::{LOOK, entry, on_the_heap};
    use super::{Trace, Tracer};

    on_the_heap! {
        [T] [] hashbrown::HashTable<T> => |value, tracer| value.trace(tracer);
        [T] [S] hashbrown::HashSet<T, S> => |value, tracer| value.trace(tracer);
        [K, V] [S] hashbrown::HashMap<K, V, S> => |(key, value), tracer| entry(key, value, tracer);
    }
}

#[cfg(feature = "indexmap")]
mod indexmap {
    use super::super::owners::{LOOK, entry, on_the_heap};
    use super::{Trace, Tracer};

    on_the_heap! {
        [T] [S] indexmap::IndexSet<T, S> => |value, tracer| value.trace(tracer);
        [K, V] [S] indexmap::IndexMap<K, V, S> => |(key, value), tracer| entry(key, value, tracer);
    }
}

#[cfg(feature = "once_cell")]
mod once_cell {
    use super::super::owners::in_place;
    use super::{Trace, Tracer};
    use once_cell::{sync, unsync};

    macro_rules! lazy {
        ($($kind:ident),*) => {$(
            // SAFETY: passes on to the value if there is one, once.
            unsafe impl<T: Trace, F: FnOnce() -> T> Trace for $kind::Lazy<T, F> {
                #[inline]
                fn trace(&self, tracer: &mut Tracer) {
                    if let Some(value) = Self::get(self) {
                        value.trace(tracer);
                    }
                }
                #[inline]
                fn holds_gc(depth: u32) -> bool {
                    T::holds_gc(depth)
                }
            }
        )*};
    }

    in_place! {
        [T] unsync::OnceCell<T> => |this, tracer| if let Some(value) = this.get() { value.trace(tracer) };
        [T] sync::OnceCell<T> => |this, tracer| if let Some(value) = this.get() { value.trace(tracer) };
    }

    // `get` does not force it. What the function captured is not seen.
    lazy!(unsync, sync);
}

#[cfg(feature = "parking_lot")]
mod parking_lot {
    use super::super::owners::{LOOK, guarded};
    use super::{Trace, Tracer};
    use parking_lot::{FairMutex, Mutex, ReentrantMutex, RwLock};

    super::super::leaves::leaves!([] parking_lot::Once, [] parking_lot::Condvar);

    guarded! {
        Mutex => |this| this.try_lock();
        FairMutex => |this| this.try_lock();
        RwLock => |this| this.try_read();
    }

    // SAFETY: passes on to the contents, once; where another thread has the lock, reports nothing.
    unsafe impl<T: Trace> Trace for ReentrantMutex<T> {
        #[inline]
        fn trace(&self, tracer: &mut Tracer) {
            if let Some(guard) = self.try_lock() {
                guard.trace(tracer);
            }
        }
        #[inline]
        fn holds_gc(depth: u32) -> bool {
            T::holds_gc(depth)
        }
    }
}

#[cfg(feature = "serde_json")]
mod serde_json {
    use super::{Trace, Tracer};

    super::super::leaves::leaves!(
        [] serde_json::Value,
        [] serde_json::Number,
        [] serde_json::Map<String, serde_json::Value>,
        [] serde_json::Error,
    );
}

#[cfg(feature = "slotmap")]
mod slotmap {
    use super::super::leaves::leaves;
    use super::super::owners::LOOK;
    use super::{Trace, Tracer};
    use slotmap::{
        DefaultKey, DenseSlotMap, Key, KeyData, SecondaryMap, SlotMap, SparseSecondaryMap,
    };

    leaves!([] DefaultKey, [] KeyData);

    macro_rules! values {
        ($([$($other:ident: $bound:path),*] $type:ty;)*) => {$(
            // SAFETY: passes on to each value, once. Iterating makes keys, which is no user code
            // that could do harm: `Key` is an unsafe trait, and a key must do as `KeyData` does.
            unsafe impl<V: Trace, $($other: $bound),*> Trace for $type {
                #[inline]
                fn trace(&self, tracer: &mut Tracer) {
                    if V::holds_gc(LOOK) {
                        self.values().for_each(|value| value.trace(tracer));
                    }
                }
                #[inline]
                fn holds_gc(depth: u32) -> bool {
                    depth == 0 || V::holds_gc(depth - 1)
                }
            }
        )*};
    }

    values! {
        [K: Key] SlotMap<K, V>;
        [K: Key] DenseSlotMap<K, V>;
        [K: Key] SecondaryMap<K, V>;
        [K: Key, S: std::hash::BuildHasher] SparseSecondaryMap<K, V, S>;
    }

    /// What slotmap has, though it would rather not.
    #[expect(deprecated, reason = "a type of old programs may hold one")]
    mod old {
        use super::{Key, LOOK, Trace, Tracer};
        use slotmap::HopSlotMap;

        values! {
            [K: Key] HopSlotMap<K, V>;
        }
    }
}

#[cfg(feature = "smallvec")]
mod smallvec {
    use super::{Trace, Tracer};

    // SAFETY: passes on to each element, once.
    unsafe impl<A: smallvec::Array<Item: Trace>> Trace for smallvec::SmallVec<A> {
        #[inline]
        fn trace(&self, tracer: &mut Tracer) {
            self.as_slice().trace(tracer);
        }
        #[inline]
        fn holds_gc(depth: u32) -> bool {
            Vec::<A::Item>::holds_gc(depth)
        }
    }
}
