//! What only a sole handle may do, `get_mut`, `try_unwrap`, `make_mut`; and objects that are not whole
//! yet, for `new_cyclic`.
//!
//! A value that is about to be changed or moved must not be found by a collection that runs meanwhile:
//! the object stops being a candidate, and no edge leads to it but the one handle, which is borrowed.
//!
//! It does not count handles.

use std::alloc::Layout;
use std::ffi::{CStr, OsStr};
use std::mem::ManuallyDrop;
use std::path::Path;

use crate::api::Heap;
use crate::collector::is_tracing;
use crate::convert::CloneNear;
use crate::gc::{Gc, first_word, type_flags};
use crate::header::{DEAD, FINALIZER, Obj, VtableOf};
use crate::heap::Inner;
use crate::pools::Place;
use crate::release::{self, bury};
use crate::thread;
use crate::trace::Trace;
use crate::weak::Weak;

/// An object whose value is not made yet: DEAD and without a handle, so that neither `Weak`s nor
/// the collector look at it.
struct Unborn(Obj);

impl Unborn {
    fn new<T: Trace + 'static>(heap: &Inner) -> Unborn {
        // Before there is a block to lose: `holds_gc` may be somebody's own, and panic.
        let flags = type_flags::<T>();
        let place = const { Place::of(size_of::<T>(), align_of::<T>(), false) };
        let room = heap.allocate(place, Layout::new::<T>());
        // SAFETY: memory for an object, ours alone.
        let obj = unsafe { Obj::at(room.header) };
        let mark = room.mark | flags | DEAD;
        // SAFETY: the header is ours to write.
        unsafe { obj.init(mark, 0, VtableOf::<T>::SIZED) };
        let unborn = Unborn(obj);
        heap.resume_deferred();
        unborn
    }

    /// Gives it its value, which must be of the type it was made for.
    fn fill<T>(self, value: T) -> Gc<T> {
        let obj = ManuallyDrop::new(self).0;
        let at = obj.value().cast::<T>();
        // SAFETY: room and alignment for a `T` by `new`.
        unsafe { at.write(value) };
        obj.clear(DEAD);
        obj.set_word(first_word(obj.mark()));
        // SAFETY: the count of 1 is this handle's.
        unsafe { Gc::from_value(at) }
    }
}

impl Drop for Unborn {
    fn drop(&mut self) {
        // SAFETY: DEAD, count 0; not used after this.
        unsafe { bury(self.0) };
    }
}

impl<T: Trace + 'static> Gc<T> {
    /// Makes an object that holds a [`Weak`] to itself, or hands one to its parts.
    ///
    /// The `Weak` cannot be upgraded before `new_cyclic` returns. If `make` panics, there is no
    /// object, and `Weak`s that it kept never upgrade.
    ///
    /// ```
    /// use rc_gc::{Gc, Trace, Weak};
    ///
    /// #[derive(Trace)]
    /// struct Gadget { me: Weak<Gadget> }
    ///
    /// let gadget = Gc::new_cyclic(|me| Gadget { me: me.clone() });
    /// assert!(Gc::ptr_eq(&gadget, &gadget.me.upgrade().unwrap()));
    /// ```
    pub fn new_cyclic(make: impl FnOnce(&Weak<T>) -> T) -> Gc<T> {
        // SAFETY: as in `new`.
        Gc::cyclic_in(unsafe { thread::current().as_ref() }, make)
    }

    /// [`new_cyclic`](Gc::new_cyclic) on `heap`.
    pub fn new_cyclic_in(make: impl FnOnce(&Weak<T>) -> T, heap: &Heap) -> Gc<T> {
        Gc::cyclic_in(heap.inner(), make)
    }

    fn cyclic_in(heap: &Inner, make: impl FnOnce(&Weak<T>) -> T) -> Gc<T> {
        let unborn = Unborn::new::<T>(heap);
        let weak = Weak::of(unborn.0, unborn.0.value().cast::<T>());
        // USER CODE. If it panics, `weak` goes, then `unborn` gives up the object.
        let value = make(&weak);
        unborn.fill(value)
    }
}

impl<T: ?Sized> Gc<T> {
    /// Whether this is the only handle, and there are no `Weak`s.
    fn is_unique(this: &Self) -> bool {
        this.obj().count() == 1 && Gc::weak_count(this) == 0 && !this.obj().has(DEAD)
    }

    /// The value, if this is the only handle and there are no `Weak`s.
    ///
    /// (`Rc::get_mut` does not ask for `'static`. Here a handle whose type was shortened, as from
    /// `Gc<&'static str>` to `Gc<&'a str>`, must not bring in what ends sooner: a drop inside other
    /// drops may be put off.)
    #[inline]
    pub fn get_mut(this: &mut Self) -> Option<&mut T>
    where
        T: 'static,
    {
        if !Gc::is_unique(this) {
            return None;
        }
        // A collection may run while the reference is out, and must not find the object. Nor need
        // it: who calls this holds the object, so it is live (collector rule 1).
        // SAFETY: of that heap.
        unsafe { this.heap().clear_candidate(this.obj()) };
        // SAFETY: the only handle, borrowed exclusively; not DEAD, so whole. No edge leads to
        // the object but this handle, which is borrowed, so no trace reaches it.
        Some(unsafe { this.value_ptr().as_mut() })
    }
}

impl<T> Gc<T> {
    /// The value, if this is the only handle; else the handle again.
    ///
    /// `Weak`s to it become `None`; a finalizer does not run.
    ///
    /// # Errors
    /// The handle, if there are others or it is dead; also in a panic hook that runs on top of a
    /// [`Trace`] that panicked, while the collector looks at objects.
    #[inline]
    pub fn try_unwrap(this: Self) -> Result<T, Self> {
        let obj = this.obj();
        if obj.count() != 1 || obj.has(DEAD) || is_tracing() {
            return Err(this);
        }
        let this = ManuallyDrop::new(this);
        // SAFETY: the only handle, which is forgotten: the value is moved out.
        let value = unsafe { this.value_ptr().read() };
        // SAFETY: count 1, and its handle is forgotten.
        release::resume(unsafe { retire_moved(obj) });
        Ok(value)
    }

    /// The value, if this is the only handle; else `None`, and the handle is dropped.
    #[inline]
    pub fn into_inner(this: Self) -> Option<T> {
        Gc::try_unwrap(this).ok()
    }

    /// The value if this is the only handle, else a clone of it.
    #[inline]
    pub fn unwrap_or_clone(this: Self) -> T
    where
        T: Clone,
    {
        Gc::try_unwrap(this).unwrap_or_else(|shared| T::clone(&shared))
    }
}

impl<T: ?Sized + CloneToGc> Gc<T> {
    /// The value to change: in place if this is the only handle, else of a clone that this handle
    /// then leads to. With `Weak`s but no other handle the value moves, and they become `None`.
    ///
    /// Also for slices of what can be cloned, and for text.
    ///
    /// # Panics
    /// If the handle is dead.
    ///
    /// ```
    /// use rc_gc::Gc;
    ///
    /// let mut mine: Gc<[i32]> = Gc::from(vec![1, 2, 3]);
    /// let yours = mine.clone();
    /// Gc::make_mut(&mut mine)[0] = 10;
    /// assert_eq!((&*mine, &*yours), (&[10, 2, 3][..], &[1, 2, 3][..]));
    /// ```
    pub fn make_mut(this: &mut Self) -> &mut T {
        if Gc::get_mut(this).is_none() {
            T::unshare(this);
        }
        // SAFETY: the only handle to the object, as `get_mut` found or `unshare` made it.
        unsafe { this.value_ptr().as_mut() }
    }
}

/// What [`Gc::make_mut`] can clone into a new object: `T: Clone`, slices of it, and text. Cannot be
/// implemented elsewhere. (The standard library's `CloneToUninit` is not stable.)
pub trait CloneToGc: Trace + sealed::Sealed + 'static {
    /// Makes `this` the only handle of an object with an equal value, without `Weak`s.
    #[doc(hidden)]
    fn unshare(this: &mut Gc<Self>);
}

mod sealed {
    /// Nobody else's.
    pub trait Sealed {}
}

impl<T: Trace + Clone + 'static> sealed::Sealed for T {}

impl<T: Trace + Clone + 'static> CloneToGc for T {
    fn unshare(this: &mut Gc<T>) {
        // SAFETY: allocated, by this handle.
        let heap = unsafe { Inner::of(this.obj()) };
        // May run USER CODE, so what was true of the object before is asked again after it.
        let room = Unborn::new::<T>(heap);
        let old = this.obj();
        if old.count() != 1 || old.has(DEAD) || is_tracing() {
            *this = room.fill(T::clone(this));
            return;
        }
        // SAFETY: the only handle, and `retire_moved` below sees to it that the old object's
        // value is not looked at again.
        let value = unsafe { this.value_ptr().read() };
        let fresh = room.fill(value);
        if !old.has(FINALIZER) {
            // It ran already, for this very value.
            fresh.obj().clear(FINALIZER);
        }
        let old = ManuallyDrop::new(std::mem::replace(this, fresh)).obj();
        // SAFETY: its only handle was just taken out of `this`, and forgotten.
        release::resume(unsafe { retire_moved(old) });
    }
}

/// Values without a size are cloned even if only `Weak`s are in the way.
macro_rules! unsized_clones {
    ($([$($t:ident)?] $type:ty),*) => {$(
        impl$(<$t: Trace + Clone + 'static>)? sealed::Sealed for $type {}

        impl$(<$t: Trace + Clone + 'static>)? CloneToGc for $type {
            fn unshare(this: &mut Gc<Self>) {
                *this = Self::clone_near(this);
            }
        }
    )*};
}

unsized_clones!([T] [T], [] str, [] CStr, [] OsStr, [] Path);

/// Ends an object whose value was moved out.
///
/// # Safety
/// It has count 1, not DEAD, and its only handle is forgotten.
unsafe fn retire_moved(obj: Obj) -> Option<release::Panic> {
    let mut panic = None;
    // SAFETY: allocated until buried.
    let heap = unsafe { Inner::of(obj) };
    // SAFETY: of that heap.
    unsafe { heap.clear_candidate(obj) };
    obj.set_word(0);
    obj.set(DEAD);
    // USER CODE, behind `guarded`.
    release::run_callbacks(obj, &mut panic);
    // SAFETY: moved out, count 0.
    unsafe { bury(obj) };
    panic
}
