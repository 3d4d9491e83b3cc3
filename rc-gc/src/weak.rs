//! [`Weak<T>`]: a pointer that does not keep its object alive.
//!
//! It points where a `Gc` points. The object's side box counts the `Weak`s; as long as there is one the
//! object's memory stays, without its value, so that the flags can be asked.

use std::fmt;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use crate::gc::Gc;
use crate::header::Obj;
use crate::heap::Inner;
use crate::side::{free_side, side_or_new};
use crate::trace::{Trace, Tracer};

/// A pointer to the value of a [`Gc`] that does not keep it alive.
///
/// ```
/// use rc_gc::{Gc, Weak};
///
/// let number = Gc::new(5);
/// let weak = Gc::downgrade(&number);
/// assert_eq!(*weak.upgrade().unwrap(), 5);
/// drop(number);
/// assert!(weak.upgrade().is_none());
/// assert!(Weak::<u8>::new().upgrade().is_none());
/// ```
#[repr(transparent)]
pub struct Weak<T: ?Sized> {
    /// The value of an object with a side box, in which this is counted; or DANGLING.
    value: NonNull<T>,
}

/// Where a `Weak` without an object points.
const DANGLING: NonZeroUsize = NonZeroUsize::MAX;

// SAFETY: reports nothing; a `Weak` owns no handle.
unsafe impl<T: ?Sized> Trace for Weak<T> {
    #[inline]
    fn trace(&self, _: &mut Tracer) {}

    #[inline]
    fn holds_gc(_: u32) -> bool {
        false
    }
}

impl<T> Weak<T> {
    /// One that never leads anywhere. Allocates nothing.
    pub const fn new() -> Weak<T> {
        Weak { value: NonNull::without_provenance(DANGLING) }
    }
}

impl<T: ?Sized> Weak<T> {
    /// A `Weak` to `obj`, whose value is at `value`.
    #[inline]
    pub(crate) fn of(obj: Obj, value: NonNull<T>) -> Weak<T> {
        // SAFETY: a handle, or its maker, keeps the object. The box is not used after this.
        let weak = &unsafe { side_or_new(obj) }.weak;
        weak.set(weak.get() + 1);
        Weak { value }
    }

    /// The object, unless dangling.
    #[inline]
    fn obj(&self) -> Option<Obj> {
        if self.value.addr() == DANGLING {
            return None;
        }
        // SAFETY: a `Weak` that is not dangling.
        Some(unsafe { Obj::of(self.value) })
    }

    /// A handle to the object, or `None` if its value is gone, about to go, or not yet made.
    #[inline]
    pub fn upgrade(&self) -> Option<Gc<T>> {
        let obj = self.obj()?;
        if !obj.is_alive() {
            return None;
        }
        obj.increment();
        // SAFETY: alive, and counted just now.
        Some(unsafe { Gc::from_value(self.value) })
    }

    /// The number of handles to the object; 0 if it is dead.
    pub fn strong_count(&self) -> usize {
        self.obj().filter(|obj| obj.is_alive()).map_or(0, |obj| obj.count() as usize)
    }

    /// The number of `Weak`s to the object; 0 if it is dead.
    pub fn weak_count(&self) -> usize {
        let obj = self.obj().filter(|obj| obj.is_alive());
        obj.as_ref().and_then(Obj::side).map_or(0, |side| side.weak.get() - 1)
    }

    /// Whether two lead to the same object, or both to none.
    #[inline]
    pub fn ptr_eq(&self, other: &Self) -> bool {
        std::ptr::addr_eq(self.value.as_ptr(), other.value.as_ptr())
    }

    /// The address of the value. Valid as long as there is a handle that is not dead.
    #[inline]
    pub fn as_ptr(&self) -> *const T {
        self.value.as_ptr()
    }

    /// The pointer of a `Weak` that is forgotten; for [`coerce!`](crate::coerce).
    #[doc(hidden)]
    pub fn into_value(this: Self) -> NonNull<T> {
        std::mem::ManuallyDrop::new(this).value
    }

    /// The `Weak` that is counted already; for [`coerce!`](crate::coerce).
    ///
    /// # Safety
    /// `value` is that of a `Weak` that was forgotten.
    #[doc(hidden)]
    pub unsafe fn from_value(value: NonNull<T>) -> Self {
        Weak { value }
    }

    /// Turns it into a pointer, without dropping it.
    pub fn into_raw(self) -> *const T {
        std::mem::ManuallyDrop::new(self).value.as_ptr()
    }

    /// Takes back what [`into_raw`](Weak::into_raw) gave.
    ///
    /// # Safety
    ///
    /// `value` came from `into_raw` of a `Weak<T>` in this thread, and is taken back once.
    pub unsafe fn from_raw(value: *const T) -> Self {
        // SAFETY: by contract from a `Weak`: not null.
        Weak { value: unsafe { NonNull::new_unchecked(value.cast_mut()) } }
    }
}

impl<T: ?Sized> Clone for Weak<T> {
    #[inline]
    fn clone(&self) -> Self {
        if let Some(obj) = self.obj() {
            // SAFETY: SIDE is set as long as there is a `Weak`.
            let side = unsafe { obj.side_pointer() };
            // SAFETY: the object's, so whole.
            let weak = &unsafe { side.as_ref() }.weak;
            // At most one per word of memory, and `forget` in a loop takes centuries to wrap it.
            weak.set(weak.get() + 1);
        }
        Weak { value: self.value }
    }
}

impl<T: ?Sized> Drop for Weak<T> {
    #[inline]
    fn drop(&mut self) {
        let Some(obj) = self.obj() else { return };
        // SAFETY: SIDE is set as long as there is a `Weak`.
        let side = unsafe { obj.side_pointer() };
        // SAFETY: the object's, so whole.
        let weak = &unsafe { side.as_ref() }.weak;
        weak.set(weak.get() - 1);
        if weak.get() == 0 {
            // SAFETY: the last, and the one that stands for all handles went before it (`bury`).
            unsafe { free_buried(obj) };
        }
    }
}

/// Frees an object that was buried.
///
/// # Safety
/// Its weak count is 0; it is not used afterwards.
#[inline(never)]
unsafe fn free_buried(obj: Obj) {
    // SAFETY: allocated until freed below.
    let heap = unsafe { Inner::pointer_of(obj) };
    // SAFETY: a heap lives as long as its objects.
    let heap_ref = unsafe { heap.as_ref() };
    // SAFETY: of that heap; the vtable is not needed any more.
    unsafe { free_side(heap_ref, obj) };
    // SAFETY: value gone, no handle, no `Weak`.
    unsafe { Inner::free(heap, obj) };
}

impl<T> Default for Weak<T> {
    fn default() -> Self {
        Weak::new()
    }
}

impl<T: ?Sized> fmt::Debug for Weak<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(Weak)")
    }
}
