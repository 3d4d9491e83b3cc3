//! [`Trace`] for types of the standard library that own other values: each passes on to every part once.
//!
//! ```text
//! in place      Option, arrays, tuples, cells, locks     depth is passed on
//! on the heap   Box, Vec, HashMap, ...                   depth - 1; at 0: "may hold handles"
//! ```
//!
//! Cells and locks that cannot be looked into report nothing, which is always allowed: what they hold
//! counts as held from outside, so it stays alive. None of this panics or waits.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, LinkedList, VecDeque};
use std::io;
use std::num::{Saturating, Wrapping};
use std::ops::{Bound, ControlFlow, Range, RangeFrom, RangeInclusive, RangeTo, RangeToInclusive};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Mutex, OnceLock, RwLock};
use std::task::Poll;

use super::{Trace, Tracer};
use crate::gc::LEAF_DEPTH;

/// How deep a container looks before it passes on to what cannot hold a handle: known at compile time,
/// so that a map of numbers is not walked and a lock around them is not taken.
pub(super) const LOOK: u32 = LEAF_DEPTH;

/// Types that hold values of their parameters in place: `|value, report|` calls `report` with each.
macro_rules! in_place {
    ($([$($t:ident),*] $type:ty => |$this:ident, $tracer:ident| $trace:expr;)*) => {$(
        // SAFETY: passes on to each value in it, once.
        unsafe impl<$($t: Trace),*> Trace for $type {
            #[inline]
            fn trace(&self, $tracer: &mut Tracer) {
                let $this = self;
                $trace
            }
            #[inline]
            fn holds_gc(depth: u32) -> bool {
                false $(|| $t::holds_gc(depth))*
            }
        }
    )*};
}
#[cfg(any(feature = "either", feature = "once_cell"))]
pub(super) use in_place;

/// Types with their values on the heap, by reference: an iteration over `&self` gives each once.
macro_rules! on_the_heap {
    ($([$($t:ident),*] [$($other:ident $(: $bound:path)?),*] $type:ty
        => |$value:pat_param, $tracer:ident| $trace:expr;)*
    ) => {$(
        // SAFETY: passes on to each value in it, once. What else it owns, its hasher say, is left out.
        unsafe impl<$($t: Trace,)* $($other $(: $bound)?),*> Trace for $type {
            #[inline]
            fn trace(&self, $tracer: &mut Tracer) {
                if false $(|| $t::holds_gc(LOOK))* {
                    self.iter().for_each(|$value| $trace);
                }
            }
            #[inline]
            fn holds_gc(depth: u32) -> bool {
                depth == 0 $(|| $t::holds_gc(depth - 1))*
            }
        }
    )*};
}
#[cfg(any(feature = "hashbrown", feature = "indexmap"))]
pub(super) use on_the_heap;

/// Both of an entry.
#[inline]
pub(super) fn entry<K: Trace, V: Trace>(key: &K, value: &V, tracer: &mut Tracer) {
    key.trace(tracer);
    value.trace(tracer);
}

in_place! {
    [T] Option<T> => |this, tracer| if let Some(value) = this { value.trace(tracer) };
    [T, E] Result<T, E> => |this, tracer| match this {
        Ok(value) => value.trace(tracer),
        Err(error) => error.trace(tracer),
    };
    [T] Poll<T> => |this, tracer| if let Poll::Ready(value) = this { value.trace(tracer) };
    [B, C] ControlFlow<B, C> => |this, tracer| match this {
        ControlFlow::Break(value) => value.trace(tracer),
        ControlFlow::Continue(value) => value.trace(tracer),
    };
    [T] Bound<T> => |this, tracer| match this {
        Bound::Included(value) | Bound::Excluded(value) => value.trace(tracer),
        Bound::Unbounded => {}
    };
    [T] Range<T> => |this, tracer| entry(&this.start, &this.end, tracer);
    [T] RangeFrom<T> => |this, tracer| this.start.trace(tracer);
    [T] RangeTo<T> => |this, tracer| this.end.trace(tracer);
    [T] RangeToInclusive<T> => |this, tracer| this.end.trace(tracer);
    [T] RangeInclusive<T> => |this, tracer| entry(this.start(), this.end(), tracer);
    [T] Wrapping<T> => |this, tracer| this.0.trace(tracer);
    [T] Saturating<T> => |this, tracer| this.0.trace(tracer);
    [T] Reverse<T> => |this, tracer| this.0.trace(tracer);
    [T] AssertUnwindSafe<T> => |this, tracer| this.0.trace(tracer);
    [T] io::BufReader<T> => |this, tracer| this.get_ref().trace(tracer);
    [T] io::Cursor<T> => |this, tracer| this.get_ref().trace(tracer);
    [T] io::Take<T> => |this, tracer| this.get_ref().trace(tracer);
    [T, U] io::Chain<T, U> => |this, tracer| {
        let (first, second) = this.get_ref();
        entry(first, second, tracer);
    };
    // One being made reports nothing.
    [T] OnceCell<T> => |this, tracer| if let Some(value) = this.get() { value.trace(tracer) };
    [T] OnceLock<T> => |this, tracer| if let Some(value) = this.get() { value.trace(tracer) };
}

/// What writes to one of its parameter.
macro_rules! writers {
    ($($type:ident)*) => {$(
        // SAFETY: passes on to the writer, once.
        unsafe impl<W: io::Write + Trace> Trace for io::$type<W> {
            #[inline]
            fn trace(&self, tracer: &mut Tracer) {
                self.get_ref().trace(tracer);
            }
            #[inline]
            fn holds_gc(depth: u32) -> bool {
                W::holds_gc(depth)
            }
        }
    )*};
}

writers!(BufWriter LineWriter);

on_the_heap! {
    [T] [] Vec<T> => |value, tracer| value.trace(tracer);
    [T] [] VecDeque<T> => |value, tracer| value.trace(tracer);
    [T] [] LinkedList<T> => |value, tracer| value.trace(tracer);
    [T] [] BinaryHeap<T> => |value, tracer| value.trace(tracer);
    [T] [] BTreeSet<T> => |value, tracer| value.trace(tracer);
    [T] [S] HashSet<T, S> => |value, tracer| value.trace(tracer);
    [K, V] [] BTreeMap<K, V> => |(key, value), tracer| entry(key, value, tracer);
    [K, V] [S] HashMap<K, V, S> => |(key, value), tracer| entry(key, value, tracer);
}

// SAFETY: passes on to each element, once.
unsafe impl<T: Trace> Trace for [T] {
    #[inline]
    fn trace(&self, tracer: &mut Tracer) {
        if T::holds_gc(LOOK) {
            self.iter().for_each(|value| value.trace(tracer));
        }
    }
}

// SAFETY: passes on to each element, once.
unsafe impl<T: Trace, const N: usize> Trace for [T; N] {
    #[inline]
    fn trace(&self, tracer: &mut Tracer) {
        if T::holds_gc(LOOK) {
            self.iter().for_each(|value| value.trace(tracer));
        }
    }
    #[inline]
    fn holds_gc(depth: u32) -> bool {
        N != 0 && T::holds_gc(depth)
    }
}

// SAFETY: passes on to each element that is left, once.
unsafe impl<T: Trace> Trace for std::vec::IntoIter<T> {
    #[inline]
    fn trace(&self, tracer: &mut Tracer) {
        self.as_slice().trace(tracer);
    }
    #[inline]
    fn holds_gc(depth: u32) -> bool {
        Vec::<T>::holds_gc(depth)
    }
}

// SAFETY: passes on to the value, once.
unsafe impl<T: Trace + ?Sized> Trace for Box<T> {
    #[inline]
    fn trace(&self, tracer: &mut Tracer) {
        (**self).trace(tracer);
    }
    /// A trait object cannot be asked; but a handle needs to be dropped, so what needs no drop holds none.
    #[inline]
    fn holds_gc(_: u32) -> bool {
        std::mem::needs_drop::<T>()
    }
}

// SAFETY: passes on to the pointer, once.
unsafe impl<P: Trace> Trace for Pin<P> {
    #[inline]
    fn trace(&self, tracer: &mut Tracer) {
        let pointer = (&raw const *self).cast::<P>();
        // SAFETY: `Pin<P>` has the layout of `P`. Nothing is moved: the pointer is only looked at.
        unsafe { &*pointer }.trace(tracer);
    }
    #[inline]
    fn holds_gc(depth: u32) -> bool {
        P::holds_gc(depth)
    }
}

// SAFETY: passes on to the owned value, once; a borrowed one is not owned.
unsafe impl<B: ToOwned<Owned: Trace> + ?Sized> Trace for Cow<'_, B> {
    #[inline]
    fn trace(&self, tracer: &mut Tracer) {
        if let Cow::Owned(value) = self {
            value.trace(tracer);
        }
    }
    #[inline]
    fn holds_gc(depth: u32) -> bool {
        <B::Owned as Trace>::holds_gc(depth)
    }
}

// SAFETY: passes on to the contents, once.
unsafe impl<T: Trace> Trace for Cell<T> {
    #[inline]
    fn trace(&self, tracer: &mut Tracer) {
        // SAFETY: nothing writes to the cell while this borrow lasts: tracing runs no user code. (A
        // panic hook might, but what is borrowed here is not looked at after it.)
        let value = unsafe { &*self.as_ptr() };
        value.trace(tracer);
    }
    #[inline]
    fn holds_gc(depth: u32) -> bool {
        T::holds_gc(depth)
    }
}

/// Cells and locks: `|cell|` gives a guard, or nothing where that cannot be had at once. Also for slices
/// in them, of which nothing is known but by looking.
macro_rules! guarded {
    ($($cell:ident => |$this:ident| $guard:expr;)*) => {$(
        // SAFETY: passes on to the contents, once; where they are in use, reports nothing.
        unsafe impl<T: Trace> Trace for $cell<T> {
            #[inline]
            fn trace(&self, tracer: &mut Tracer) {
                let $this = self;
                if let Some(guard) = T::holds_gc(LOOK).then(|| $guard).flatten() {
                    guard.trace(tracer);
                }
            }
            #[inline]
            fn holds_gc(depth: u32) -> bool {
                T::holds_gc(depth)
            }
        }

        // SAFETY: as above.
        unsafe impl<T: Trace> Trace for $cell<[T]> {
            #[inline]
            fn trace(&self, tracer: &mut Tracer) {
                let $this = self;
                if let Some(guard) = T::holds_gc(LOOK).then(|| $guard).flatten() {
                    guard.trace(tracer);
                }
            }
        }
    )*};
}
#[cfg(feature = "parking_lot")]
pub(super) use guarded;

guarded! {
    // SAFETY: the reference ends with the visit, and meanwhile no user code runs that could borrow
    // the cell. (A panic hook might, but what is borrowed here is not looked at after it.)
    RefCell => |this| unsafe { this.try_borrow_unguarded() }.ok();
    // A poisoned lock counts as locked: its contents stay, until `clear_poison`.
    Mutex => |this| this.try_lock().ok();
    RwLock => |this| this.try_read().ok();
}

/// Tuples of these, and of those that remain when the first is left out.
macro_rules! tuples {
    ($first:ident $($rest:ident)*) => {
        // SAFETY: passes on to each part, once.
        unsafe impl<$first: Trace $(, $rest: Trace)*> Trace for ($first, $($rest,)*) {
            #[inline]
            #[expect(non_snake_case, reason = "a part is named as its type")]
            fn trace(&self, tracer: &mut Tracer) {
                let ($first, $($rest,)*) = self;
                $first.trace(tracer);
                $($rest.trace(tracer);)*
            }
            #[inline]
            fn holds_gc(depth: u32) -> bool {
                $first::holds_gc(depth) $(|| $rest::holds_gc(depth))*
            }
        }
        tuples!($($rest)*);
    };
    () => {};
}

tuples!(A B C D E F G H I J K L);
