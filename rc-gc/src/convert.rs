//! What turns into a [`Gc`], under `Rc`'s rules: boxes, vectors, slices, arrays, text, iterators; and
//! back: slices into arrays.
//!
//! A box or a vector gives up its own memory; its values move without being cloned.
//! How an object without a size of its own is laid out is `dst`'s business.

use std::alloc::Layout;
use std::borrow::Cow;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::mem::needs_drop;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::ptr::NonNull;

use crate::api::Heap;
use crate::dst::{here, make, make_copy};
use crate::gc::{Gc, LEAF_DEPTH};
use crate::header::{FINALIZER, LEAF};
use crate::heap::Inner;
use crate::trace::Trace;

impl<T: ?Sized + Trace + 'static> From<Box<T>> for Gc<T> {
    /// Moves the value out of its box; also for trait objects, slices and `str`.
    fn from(value: Box<T>) -> Gc<T> {
        box_in(here(), value)
    }
}

impl<T: ?Sized + Trace + 'static> Gc<T> {
    /// Moves the value out of its box into a new object on `heap`: what a `dyn Trait`, a slice or a
    /// `str` gets there by.
    ///
    /// ```
    /// use rc_gc::{Gc, Heap};
    ///
    /// let heap = Heap::new();
    /// let text: Gc<str> = Gc::from_box_in("apart".into(), &heap);
    /// let numbers: Gc<[i32]> = Gc::from_box_in((1..4).collect(), &heap);
    /// assert_eq!((&*text, &*numbers, heap.stats().live), ("apart", &[1, 2, 3][..], 2));
    /// ```
    pub fn from_box_in(value: Box<T>, heap: &Heap) -> Gc<T> {
        box_in(heap.inner(), value)
    }
}

fn box_in<T: ?Sized + Trace + 'static>(heap: &Inner, value: Box<T>) -> Gc<T> {
    let layout = Layout::for_value(&*value);
    let from = Box::into_raw(value);
    let moved = Moved { from, layout };
    // Whether a value behind `dyn` has a finalizer is asked by calling it. What needs no drop
    // holds no handle.
    let flags = FINALIZER | if needs_drop::<T>() { 0 } else { LEAF };
    // SAFETY: moved out: `moved` frees the box only.
    let gc = unsafe { make_copy::<T>(heap, from, layout, flags) };
    drop(moved);
    gc
}

/// A box whose value was moved out.
struct Moved<T: ?Sized> {
    from: *mut T,
    layout: Layout,
}

impl<T: ?Sized> Drop for Moved<T> {
    fn drop(&mut self) {
        if self.layout.size() != 0 {
            // SAFETY: from `Box::into_raw`, of this layout, its value moved out.
            unsafe { std::alloc::dealloc(self.from.cast(), self.layout) };
        }
    }
}

/// Flags of a slice of `T`.
pub(crate) fn slice_flags<T: Trace>() -> u32 {
    if T::holds_gc(LEAF_DEPTH) { 0 } else { LEAF }
}

impl<T: Trace + 'static> From<Vec<T>> for Gc<[T]> {
    /// Moves the elements; the vector's memory is freed.
    fn from(values: Vec<T>) -> Gc<[T]> {
        slice_in(here(), values)
    }
}

/// A slice of the elements of a vector, whose memory is freed, on a heap.
fn slice_in<T: Trace + 'static>(heap: &Inner, mut values: Vec<T>) -> Gc<[T]> {
    let len = values.len();
    let layout = Layout::for_value(&values[..]);
    let place = |at: *mut u8| {
        let to = at.cast::<T>();
        // SAFETY: `len` elements, to memory of their layout.
        unsafe { values.as_ptr().copy_to_nonoverlapping(to, len) };
        // SAFETY: 0 elements; the others were moved out just now.
        unsafe { values.set_len(0) };
        std::ptr::slice_from_raw_parts_mut(to, len)
    };
    // SAFETY: `place` moves the elements.
    unsafe { make(heap, layout, slice_flags::<T>(), place) }
}

/// What can be cloned into a new object of the same heap, though it has no size.
pub(crate) trait CloneNear {
    /// A new object with an equal value.
    fn clone_near(this: &Gc<Self>) -> Gc<Self>;
}

impl<T: Trace + Clone + 'static> CloneNear for [T] {
    fn clone_near(this: &Gc<[T]>) -> Gc<[T]> {
        // USER CODE. The heap is asked for after it; `this` keeps it.
        let values = this.to_vec();
        slice_in(this.heap(), values)
    }
}

impl<T: Trace + 'static, const N: usize> From<[T; N]> for Gc<[T]> {
    fn from(values: [T; N]) -> Gc<[T]> {
        Gc::from(Vec::from(values))
    }
}

impl<T: Trace + Clone + 'static> From<&[T]> for Gc<[T]> {
    /// Clones the elements.
    fn from(values: &[T]) -> Gc<[T]> {
        Gc::from(values.to_vec())
    }
}

impl<T: Trace + Clone + 'static> From<&mut [T]> for Gc<[T]> {
    /// Clones the elements.
    fn from(values: &mut [T]) -> Gc<[T]> {
        Gc::from(values.to_vec())
    }
}

impl<T: Trace + 'static> FromIterator<T> for Gc<[T]> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Gc<[T]> {
        Gc::from(Vec::from_iter(values))
    }
}

impl<T: Trace + 'static> Default for Gc<[T]> {
    fn default() -> Self {
        Gc::from(Vec::new())
    }
}

/// Text of some kind: bytes without a meaning to the collector.
macro_rules! text {
    ($($borrowed:ty, $owned:ty;)*) => {$(
        impl From<&$borrowed> for Gc<$borrowed> {
            /// Copies the text.
            fn from(text: &$borrowed) -> Self {
                // SAFETY: bytes may be copied.
                unsafe { make_copy(here(), text, Layout::for_value(text), LEAF) }
            }
        }

        impl CloneNear for $borrowed {
            fn clone_near(this: &Gc<Self>) -> Gc<Self> {
                // SAFETY: bytes may be copied.
                unsafe { make_copy(this.heap(), &raw const **this, Layout::for_value(&**this), LEAF) }
            }
        }

        impl From<&mut $borrowed> for Gc<$borrowed> {
            /// Copies the text.
            fn from(text: &mut $borrowed) -> Self {
                Gc::from(&*text)
            }
        }

        impl From<$owned> for Gc<$borrowed> {
            /// Copies the text.
            fn from(text: $owned) -> Self {
                Gc::from(&*text)
            }
        }
    )*};
}

text! {
    str, String;
    CStr, CString;
    OsStr, OsString;
    Path, PathBuf;
}

impl<'a, B> From<Cow<'a, B>> for Gc<B>
where
    B: ToOwned + ?Sized,
    Gc<B>: From<&'a B> + From<B::Owned>,
{
    /// Copies what is borrowed, moves what is owned.
    fn from(value: Cow<'a, B>) -> Self {
        match value {
            Cow::Borrowed(value) => Gc::from(value),
            Cow::Owned(value) => Gc::from(value),
        }
    }
}

impl Default for Gc<str> {
    fn default() -> Self {
        Gc::from("")
    }
}

impl Default for Gc<CStr> {
    fn default() -> Self {
        Gc::from(c"")
    }
}

impl<T: ?Sized> Default for Pin<Gc<T>>
where
    Gc<T>: Default,
{
    fn default() -> Self {
        // SAFETY: as in `Gc::pin`: a new object, with this as its only handle.
        unsafe { Pin::new_unchecked(Gc::default()) }
    }
}

impl From<Gc<str>> for Gc<[u8]> {
    /// The same object as bytes.
    fn from(text: Gc<str>) -> Self {
        let text = Gc::into_value(text);
        let bytes = text.as_ptr() as *mut [u8];
        // SAFETY: from a handle: not null.
        let bytes = unsafe { NonNull::new_unchecked(bytes) };
        // SAFETY: the bytes of the text; the count of the handle just given up.
        unsafe { Gc::from_value(bytes) }
    }
}

impl<T, const N: usize> TryFrom<Gc<[T]>> for Gc<[T; N]> {
    type Error = Gc<[T]>;

    /// The same object as an array.
    ///
    /// # Errors
    /// The handle again, if it has another length.
    fn try_from(slice: Gc<[T]>) -> Result<Self, Self::Error> {
        if Gc::is_dead(&slice) || slice.len() != N {
            return Err(slice);
        }
        let value = Gc::into_value(slice).cast::<[T; N]>();
        // SAFETY: `N` elements; the count of the handle just given up.
        Ok(unsafe { Gc::from_value(value) })
    }
}
