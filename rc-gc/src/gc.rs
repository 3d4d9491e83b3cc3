//! [`Gc<T>`]: the handle. What `Rc` offers, under the same names.
//!
//! One pointer to the value; count and flags lie before it (`header`). Cloning is one load, one
//! store and a test that saturation needs; dropping likewise. Trait implementations are in
//! `traits`, unsized values in `dst`, the way to zero in `release`.

use std::alloc::Layout;
use std::any::Any;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::NonNull;

use crate::Heap;
use crate::header::{COUNT, DEAD, FINALIZER, IMMORTAL, LEAF, Obj, PURPLE, VtableOf, is_quiet};
use crate::heap::{Inner, Room};
use crate::pools::Place;
use crate::release;
use crate::side::side_or_new;
use crate::thread;
use crate::trace::{Trace, Tracer};
use crate::weak::Weak;

/// How many containers a type is looked through for handles; see [`Trace::holds_gc`].
pub(crate) const LEAF_DEPTH: u32 = 3;

/// A counted pointer to a value of type `T`, like [`Rc`](std::rc::Rc), whose cycles are collected.
///
/// The size of a pointer, and so is `Option<Gc<T>>`. Not `Send`: a handle stays in its thread.
///
/// # Cost
///
/// In memory: 16 bytes before the value, with which the object takes a multiple of 8 bytes (of its
/// alignment, if that is more) and at least 32. A descriptor of 256 bytes for each pool of 16 KiB
/// adds half a byte to an object of 32, and 8 bytes to one of 512. What [`From`] makes of a box, a
/// vector, a slice or text has 16 bytes more, a pointer with its metadata, and so have values
/// aligned to 32. Objects of more than 512 bytes with all that, and values aligned to more than 32,
/// are blocks of the global allocator: with 64 bytes more before the 16, which have room for those
/// metadata, and 8 in a list. The first [`Weak`] or callback of an object adds 56.
///
/// In time: cloning and dropping a handle cost what they cost with `Rc`, within a
/// few tenths of a nanosecond; dereferencing tests one flag ([dead handles](Gc::try_get)).
/// A `Gc::new` may collect, if [`Mode`](crate::Mode) says so: `Drop`s of garbage run there.
///
/// # Where it differs from `Rc`
///
/// Names and meanings are `Rc`'s but for this:
///
/// * The value must be `Trace + 'static`: the collector must see the handles in it.
/// * A handle can be [dead](Gc::try_get), in `Drop`s of garbage. Dereferencing it panics.
/// * [`clone`](Clone::clone) never aborts: a count of 2^30 stays there, and the object for good.
/// * [`downgrade`](Gc::downgrade) allocates, the first time; [`Weak`]s end before the first `Drop` of
///   the garbage that their object is part of.
/// * `Gc<T>` becomes `Gc<dyn Trait>` by [`coerce!`](crate::coerce), not by itself, which on stable
///   Rust only the standard library's pointers do.
/// * A method cannot take `self: &Gc<Self>` or `self: Gc<Self>`: on stable Rust only the standard
///   library's pointers can stand there. Write `this: &Gc<Self>`, and `Node::method(&node)`.
/// * `==` looks at the values even if both handles lead to the same object, as `Rc` does for a `T`
///   that is not `Eq`.
/// * [`get_mut`](Gc::get_mut) asks for `'static` too: a drop inside other drops may be put off.
/// * `new_in`, `new_cyclic_in` and [`from_box_in`](Gc::from_box_in) take a [`Heap`]. What takes an
///   `Allocator`, and what `Rc` has only on nightly, is missing.
///
/// # Examples
///
/// ```
/// use rc_gc::{Gc, Trace};
/// use std::cell::RefCell;
///
/// #[derive(Trace)]
/// struct Node { value: u64, links: RefCell<[Option<Gc<Node>>; 2]> }
///
/// let a = Gc::new(Node { value: 1, links: Default::default() });
/// let b = Gc::new(Node { value: 2, links: RefCell::new([Some(a.clone()), None]) });
/// a.links.borrow_mut()[0] = Some(b.clone());
/// assert_eq!(a.value + b.value, 3);
/// drop((a, b));
/// assert_eq!(rc_gc::collect(), 2);
/// ```
#[repr(transparent)]
pub struct Gc<T: ?Sized> {
    /// Points to the value of an object that this handle is counted in, with provenance for all
    /// of its memory.
    value: NonNull<T>,
    owns: PhantomData<T>,
}

const _: () = assert!(size_of::<Gc<u8>>() == size_of::<usize>());
const _: () = assert!(size_of::<Option<Gc<u8>>>() == size_of::<usize>());
const _: () = assert!(size_of::<Option<Gc<str>>>() == 2 * size_of::<usize>());
const _: () = assert!(size_of::<Option<Gc<dyn Any>>>() == 2 * size_of::<usize>());
const _: () = assert!(size_of::<Option<Weak<u8>>>() == size_of::<usize>());
const _: () = assert!(size_of::<Option<Weak<dyn Any>>>() == 2 * size_of::<usize>());

/// What a dead handle says when it is dereferenced.
#[cold]
#[inline(never)]
fn dead_handle() -> ! {
    panic!("dead Gc: the object was collected; its value is gone")
}

// SAFETY: reports exactly the one handle it is, owned by definition.
unsafe impl<T: ?Sized> Trace for Gc<T> {
    #[inline(always)]
    fn trace(&self, tracer: &mut Tracer) {
        tracer.edge(self.obj(), (&raw const *self).cast());
    }
}

impl<T: Trace + 'static> Gc<T> {
    /// Moves `value` into a new object on the thread's heap.
    ///
    /// May collect first ([`Mode::Automatic`](crate::Mode)). Where memory ends it calls
    /// [`handle_alloc_error`](std::alloc::handle_alloc_error), as `Rc::new` does.
    #[inline(always)]
    pub fn new(value: T) -> Gc<T> {
        // SAFETY: the thread's heap lives at least as long as its objects, and this makes one.
        Gc::new_inner(value, unsafe { thread::current().as_ref() })
    }

    /// Moves `value` into a new object on `heap`. See also [`from_box_in`](Gc::from_box_in), for
    /// what has no size of its own, and [`new_cyclic_in`](Gc::new_cyclic_in).
    #[inline(always)]
    pub fn new_in(value: T, heap: &Heap) -> Gc<T> {
        Gc::new_inner(value, heap.inner())
    }

    #[inline(always)]
    fn new_inner(value: T, heap: &Inner) -> Gc<T> {
        // No call here unwinds while `value` is in its way to the object: so it needs no address,
        // and is built in registers or in place. A panic in a collection waits until it has arrived.
        // `flags` come first: `holds_gc` may be somebody's own, and panic.
        let flags = type_flags::<T>();
        let place = const { Place::of(size_of::<T>(), align_of::<T>(), false) };
        let (room, slow) = match heap.pop(place) {
            Some(header) => (Room { header, mark: heap.birth() }, false),
            None => (crate::heap::allocate_slow(heap, place, Layout::new::<T>()), true),
        };
        // SAFETY: memory for an object, ours alone.
        let obj = unsafe { Obj::at(room.header) };
        let mark = room.mark | flags;
        // SAFETY: the header is ours to write.
        unsafe { obj.init(mark, first_word(flags), VtableOf::<T>::SIZED) };
        let at = obj.value().cast::<T>();
        // SAFETY: room and alignment for a `T` by `place`.
        unsafe { at.write(value) };
        // SAFETY: the count of 1 is this handle's.
        let gc = unsafe { Gc::from_value(at) };
        if slow {
            heap.resume_deferred();
        }
        gc
    }
}

/// The flags that every object of a type is born with.
#[inline(always)]
pub(crate) fn type_flags<T: Trace>() -> u32 {
    let leaf = if T::holds_gc(LEAF_DEPTH) { 0 } else { LEAF };
    leaf | if T::has_finalizer() { FINALIZER } else { 0 }
}

/// The count word of an object with one handle. A leaf is quiet from birth.
#[inline(always)]
pub(crate) fn first_word(flags: u32) -> u32 {
    if flags & LEAF != 0 { 1 | PURPLE } else { 1 }
}

impl<T: ?Sized> Gc<T> {
    /// The handle that is counted already; for [`coerce!`](crate::coerce).
    ///
    /// # Safety
    /// `value` is the value of an object, one of whose counts becomes this handle's.
    #[doc(hidden)]
    #[inline(always)]
    pub unsafe fn from_value(value: NonNull<T>) -> Self {
        Gc { value, owns: PhantomData }
    }

    /// The pointer of a handle that is forgotten; for [`coerce!`](crate::coerce).
    #[doc(hidden)]
    #[inline(always)]
    pub fn into_value(this: Self) -> NonNull<T> {
        ManuallyDrop::new(this).value
    }

    /// The object.
    #[inline(always)]
    pub(crate) fn obj(&self) -> Obj {
        // SAFETY: the pointer of a handle that exists.
        unsafe { Obj::of(self.value) }
    }

    /// With `verify`: panics while tracing.
    #[inline(always)]
    fn touched(&self) {
        #[cfg(feature = "verify")]
        crate::verify::touched(self.obj().vtable().name);
    }

    /// The pointer.
    #[inline(always)]
    pub(crate) fn value_ptr(&self) -> NonNull<T> {
        self.value
    }

    /// The heap of the object.
    #[inline]
    pub(crate) fn heap(&self) -> &Inner {
        // SAFETY: the handle keeps the object, and the object its heap.
        unsafe { Inner::of(self.obj()) }
    }

    /// The value, or `None` if this is a *dead handle*.
    ///
    /// A handle is dead from the moment that its object is found to be garbage: it can be seen in
    /// `Drop`s of objects that are collected together, and later if such a `Drop` moved it to
    /// where it is reachable. Dereferencing it panics, cloning and dropping it is harmless, a
    /// [`Weak`] made from it never upgrades. In [`Finalize`](crate::Finalize) no handle is dead.
    #[inline]
    pub fn try_get(this: &Self) -> Option<&T> {
        // SAFETY: not DEAD and with a handle: the value is whole (header invariant 2).
        if this.obj().has(DEAD) { None } else { Some(unsafe { this.value.as_ref() }) }
    }

    /// Whether this is a dead handle; see [`try_get`](Gc::try_get).
    #[inline]
    pub fn is_dead(this: &Self) -> bool {
        this.obj().has(DEAD)
    }

    /// Whether two handles lead to the same object.
    #[inline]
    pub fn ptr_eq(this: &Self, other: &Self) -> bool {
        std::ptr::addr_eq(this.value.as_ptr(), other.value.as_ptr())
    }

    /// The address of the value. Valid as long as there is a handle that is not dead.
    #[inline]
    pub fn as_ptr(this: &Self) -> *const T {
        this.value.as_ptr()
    }

    /// The number of handles. In finalizers, callbacks and `Drop`s of garbage the collector has one
    /// more to each object of it. Of an object with more than 2^30 the count was saturated: it is
    /// about 2^30 and the object is never freed.
    #[inline]
    pub fn strong_count(this: &Self) -> usize {
        this.obj().count() as usize
    }

    /// The number of [`Weak`]s.
    #[inline]
    pub fn weak_count(this: &Self) -> usize {
        this.obj().side().map_or(0, |side| side.weak.get() - 1)
    }

    /// Makes a [`Weak`].
    ///
    /// The first one of an object allocates a box of 56 bytes that lives as long as the object.
    #[inline]
    pub fn downgrade(this: &Self) -> Weak<T> {
        Weak::of(this.obj(), this.value)
    }

    /// Turns the handle into a pointer to the value, without dropping it.
    #[inline]
    pub fn into_raw(this: Self) -> *const T {
        ManuallyDrop::new(this).value.as_ptr()
    }

    /// Takes back what [`into_raw`](Gc::into_raw) gave.
    ///
    /// # Safety
    ///
    /// `value` came from `into_raw` of a `Gc<T>` (or of a handle to the same object that was
    /// coerced to it), in this thread, and each such pointer is taken back at most once.
    #[inline]
    pub unsafe fn from_raw(value: *const T) -> Self {
        // SAFETY: by contract, from a handle: not null.
        let value = unsafe { NonNull::new_unchecked(value.cast_mut()) };
        // SAFETY: by contract, that handle's count.
        unsafe { Gc::from_value(value) }
    }

    /// Counts one more handle for a pointer from [`into_raw`](Gc::into_raw).
    ///
    /// # Safety
    ///
    /// As for `from_raw`, except that the pointer remains to be taken back.
    pub unsafe fn increment_strong_count(value: *const T) {
        // SAFETY: by contract.
        let this = ManuallyDrop::new(unsafe { Gc::from_raw(value) });
        std::mem::forget(Gc::clone(&this));
    }

    /// Drops one handle of a pointer from [`into_raw`](Gc::into_raw).
    ///
    /// # Safety
    ///
    /// As for `from_raw`.
    pub unsafe fn decrement_strong_count(value: *const T) {
        // SAFETY: by contract.
        drop(unsafe { Gc::from_raw(value) });
    }

    /// Calls `callback` once, when the object is found dead: its count has become 0, or it was
    /// collected. `Weak`s are `None` by then; values of objects that die with it are not yet dropped.
    ///
    /// Handles that the callback owns count as held from outside. It is dropped with the object's
    /// memory if it is never called. A panic in it is treated like one in `Drop`.
    ///
    /// ```
    /// use rc_gc::Gc;
    /// use std::{cell::Cell, rc::Rc};
    ///
    /// let told = Rc::new(Cell::new(false));
    /// let number = Gc::new(7);
    /// Gc::on_dead(&number, { let told = told.clone(); move || told.set(true) });
    /// drop(number);
    /// assert!(told.get());
    /// ```
    pub fn on_dead(this: &Self, callback: impl FnOnce() + 'static) {
        if !this.obj().has(DEAD) {
            // SAFETY: this handle keeps the object.
            let side = unsafe { side_or_new(this.obj()) };
            side.callbacks.borrow_mut().push(Box::new(callback));
        }
    }

    /// The name of the value's type, also where `T` is a trait.
    pub fn type_name(this: &Self) -> &'static str {
        (this.obj().vtable().name)()
    }

    /// The generation that the object is in.
    pub fn generation(this: &Self) -> crate::Generation {
        this.heap().generation_of(this.obj())
    }

    /// Whether the collector looks at the object at all: not if its type owns no handles.
    #[inline]
    pub fn is_tracked(this: &Self) -> bool {
        !this.obj().has(LEAF)
    }
}

impl<T: ?Sized> Clone for Gc<T> {
    /// Another handle to the same object. Never fails: a count of 2^30 stays there for good.
    #[inline(always)]
    fn clone(&self) -> Self {
        self.touched();
        self.obj().increment();
        Gc { value: self.value, owns: PhantomData }
    }
}

impl<T: ?Sized> Drop for Gc<T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.touched();
        let word = self.obj().decrement();
        if !is_quiet(word) {
            if word & (COUNT | IMMORTAL) == 0 {
                // SAFETY: this was the last handle; it is not used again.
                unsafe { release::drop_last(self.value, word) };
            } else {
                // SAFETY: others are left; a leaf is PURPLE from birth and here only if IMMORTAL.
                unsafe { release::note(self.obj(), word) };
            }
        }
    }
}

impl<T: ?Sized> Deref for Gc<T> {
    type Target = T;

    /// The value.
    ///
    /// # Panics
    /// If the handle is dead; see [`Gc::try_get`].
    #[inline(always)]
    fn deref(&self) -> &T {
        self.touched();
        if self.obj().has(DEAD) {
            dead_handle();
        }
        // SAFETY: not DEAD and with a handle: the value is whole (header invariant 2).
        unsafe { self.value.as_ref() }
    }
}

impl Gc<dyn Any> {
    /// The handle to the concrete type, if the value is a `T`.
    ///
    /// # Errors
    /// The handle again, if it is not.
    pub fn downcast<T: Any>(self) -> Result<Gc<T>, Self> {
        if !Gc::is_dead(&self) && (*self).is::<T>() {
            let value = ManuallyDrop::new(self).value.cast::<T>();
            // SAFETY: the value is a `T`; the count is that of the handle just forgotten.
            Ok(unsafe { Gc::from_value(value) })
        } else {
            Err(self)
        }
    }
}
