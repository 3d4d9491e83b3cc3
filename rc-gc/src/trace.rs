//! How an object shows the collector the handles it owns: [`Trace`], [`Tracer`], [`Finalize`].
//!
//! ```text
//!  collector ── trace(&value) ──► Trace for Node ──► Trace for RefCell ──► Trace for Gc<T>
//!      ▲                                                                        │ edge
//!      └───────────────── buffer of edges (header pointers) ◄───────────────────┘
//! ```
//!
//! Tracing only fills a buffer; the collector loops over it. So a structure of any depth *between*
//! objects needs no stack, and both passes of the collector run the same code.
//! This module does not decide anything about the objects it is shown.

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
mod leaves;
mod owners;

use crate::header::Obj;

/// A type whose owned [`Gc`](crate::Gc) handles the collector can find.
///
/// Derive it. `#[derive(Trace)]` reports every field and is always sound.
///
/// | attribute | on | meaning |
/// |---|---|---|
/// | `#[gc(skip)]` | a field | not reported, and its type needs no `Trace`. Handles in it count as held from outside: **cycles through them leak**, nothing worse |
/// | `#[gc(drop)]` | the type | the type has its own `Drop`; see *Drop* below |
/// | `#[gc(finalize)]` | the type | the type implements [`Finalize`] |
/// | `#[gc(bound = "...")]` | the type | this where clause instead of `T: Trace` for each type parameter that a reported field mentions |
/// | `#[gc(crate = path)]` | the type | the path of this crate, where it was renamed or re-exported |
///
/// ```
/// use rc_gc::{Gc, Trace};
/// use std::cell::RefCell;
///
/// #[derive(Trace)]
/// struct Node<T> {
///     value: T,
///     next: RefCell<Option<Gc<Node<T>>>>,
///     #[gc(skip)]
///     id: std::num::NonZeroU64,
/// }
/// ```
///
/// # Types of the standard library
///
/// What owns its contents passes on to them: `Option`, `Result`, tuples to 12, arrays, slices,
/// `Box`, `Vec` and all collections (with any hasher), `Cow`, `Pin`, ranges, `Wrapping` and its
/// like; and the cells, `Cell`, `RefCell`, `OnceCell`, `Mutex`, `RwLock`, `OnceLock`. One that is
/// borrowed, locked or poisoned during a collection hides what it holds, which so stays alive;
/// nothing panics.
///
/// Nothing is reported for what owns no handles (numbers, text, times, files, errors, function
/// pointers, references, `Weak`s), nor for what may not be looked into: **a cycle through one of
/// these leaks**.
///
/// | type | why |
/// |---|---|
/// | `Rc<T>`, `Arc<T>` | one handle inside would be reported by each owner. Make it a `Gc<T>` |
/// | `dyn Error` | what an error has inside is not known; one that is `Send` holds no handle |
/// | `ManuallyDrop<T>`, `MaybeUninit<T>` | there may be no value |
/// | `LazyCell<T>`, `LazyLock<T>` | cannot be asked before Rust 1.94. Use a `OnceCell` |
///
/// A cell or lock of a trait object can be in a `Gc` (`Gc<RefCell<dyn Shape>>`), but not in a
/// `Box`: write `RefCell<Box<dyn Shape>>`. (For `RefCell<String>` and its like it is known that
/// they hold no handle, which a trait object cannot be asked without a value.)
///
/// There is no implementation for closures and `dyn Fn` (their captures cannot be seen), raw
/// pointers (who owns what they lead to is not known), guards of locks and cells
/// (`guard.trace(tracer)` reaches what is guarded), and function pointers of any lifetime such as
/// `fn(&str)`: `#[gc(skip)]` the field.
///
/// # Drop
///
/// When a cycle is collected its members are dropped one after the other, so the `Drop` of one may
/// hold handles to another that was dropped before. Such handles are *dead*: [`Gc::try_get`]
/// answers `None`, dereferencing one panics, cloning and dropping one is harmless. Because that is
/// easy to forget, the derive refuses a type with a `Drop` of its own until it says `#[gc(drop)]`.
/// Clean-up that must see the others intact belongs in [`Finalize`].
///
/// # Safety
///
/// An implementation written by hand must keep these; the collector frees live objects otherwise.
///
/// 1. **Only owned handles.** [`trace`](Trace::trace) passes on to `Gc::trace` only handles that
///    this value owns: dropping the value would drop that handle. (Not what is behind an `Rc`,
///    a reference or a `Weak`.)
/// 2. **Each at most once** per call.
/// 3. **The same each time**, as long as nobody changed the value in between.
/// 4. **No user code**: no handle is cloned, dropped or dereferenced, nothing in a cell is changed,
///    nothing is collected. It may panic: nothing is freed then. But it catches no panic, and while
///    it unwinds it does not look at `self` any more, which the panic hook may have changed.
/// 5. [`holds_gc`](Trace::holds_gc) answers `true` if `trace` could ever report an edge, and makes
///    and drops no handle.
///
/// Reporting *less* than is owned is always sound: what is not reported counts as held from
/// outside. So contents of a borrowed `RefCell` or a locked `Mutex` are simply left out.
///
/// [`Gc::try_get`]: crate::Gc::try_get
#[diagnostic::on_unimplemented(
    // Where the compiler suggests a reference, which is `Trace` for any type, it leaves the notes out.
    message = "the cycle collector cannot look into `{Self}`: it has no `#[derive(rc_gc::Trace)]`",
    label = "`Trace` is not implemented for `{Self}`",
    note = "derive it: `#[derive(rc_gc::Trace)]`",
    note = "or mark the field `#[gc(skip)]`: handles inside are then not collected in cycles",
    note = "a `dyn Trait` has it if the trait says so: `trait Name: rc_gc::Trace`",
    note = "of a closure the captures cannot be seen: make it a struct with a method, or capture `Weak`s and skip it"
)]
pub unsafe trait Trace {
    /// Reports every handle that `self` owns, by calling `trace` on the parts of `self`.
    fn trace(&self, tracer: &mut Tracer);

    /// Whether a value of this type can own a handle. `false` makes the type a *leaf*: its objects
    /// are only counted, never looked at by the collector.
    ///
    /// `depth` is how many more containers on the heap (`Vec`, `HashMap`, ...) to look through: a
    /// container passes on `depth - 1`, or answers `true` if `depth` is 0, and so ends the
    /// recursion for types that contain themselves; everything else passes `depth` on.
    #[inline]
    fn holds_gc(depth: u32) -> bool
    where
        Self: Sized,
    {
        let _ = depth;
        true
    }

    /// Calls [`Finalize::finalize`]; written by `#[gc(finalize)]`.
    #[doc(hidden)]
    fn finalize_hook(&self) {}

    /// Whether `finalize_hook` does anything; written by `#[gc(finalize)]`.
    #[doc(hidden)]
    #[inline]
    fn has_finalizer() -> bool
    where
        Self: Sized,
    {
        false
    }
}

/// Code to run once before an object is dropped, while everything it can reach is intact.
///
/// Say `#[gc(finalize)]` beside `#[derive(Trace)]`; without it the method is never called.
///
/// * It runs at most once in the life of an object, before any `Drop` of the same garbage.
/// * It may *resurrect*: an object that is reachable again afterwards stays alive, with all it
///   reaches. Its finalizer does not run a second time.
/// * A panic in it does not stop the others; the first one continues when the work is done.
/// * It is that of the object's own type: for `#[gc(finalize)]` on `S`, that of a `Gc<S>` (or a
///   `Gc<dyn Trait>` of an `S`). In a `Gc<RefCell<S>>`, a `Gc<Option<S>>`, a `Gc<[S]>` or a
///   `Gc<(S, u8)>` the `S` is a part of the value, and **its `finalize` is never called**. Put the
///   cell into `S` instead.
///
/// The idea is Python's PEP 442.
///
/// ```
/// use rc_gc::{Finalize, Gc, Trace};
/// use std::cell::{Cell, RefCell};
///
/// thread_local!(static SEEN: Cell<u32> = const { Cell::new(0) });
///
/// #[derive(Trace)]
/// #[gc(finalize)]
/// struct Session { peer: RefCell<Option<Gc<Session>>>, number: u32 }
///
/// impl Finalize for Session {
///     fn finalize(&self) {
///         let peer = self.peer.borrow();
///         SEEN.set(SEEN.get() + peer.as_ref().map_or(0, |peer| peer.number));
///     }
/// }
///
/// let a = Gc::new(Session { peer: RefCell::new(None), number: 1 });
/// let b = Gc::new(Session { peer: RefCell::new(Some(a.clone())), number: 20 });
/// *a.peer.borrow_mut() = Some(b.clone());
/// drop((a, b));
/// assert_eq!(rc_gc::collect(), 2);
/// assert_eq!(SEEN.get(), 21);
/// ```
pub trait Finalize: Trace {
    /// Runs once, before the object is dropped.
    fn finalize(&self);
}

/// Collects the edges of one object; handed to [`Trace::trace`].
///
/// There is nothing to call on it: pass it on to the parts of the value.
pub struct Tracer {
    edges: Vec<Obj>,
    /// Where the handles are that the edges were reported for.
    #[cfg(feature = "verify")]
    handles: Vec<usize>,
}

impl Tracer {
    /// An empty buffer.
    pub(crate) const fn new() -> Self {
        Tracer {
            edges: Vec::new(),
            #[cfg(feature = "verify")]
            handles: Vec::new(),
        }
    }

    /// Adds the edge to `target`, for the handle at `handle`.
    #[inline(always)]
    pub(crate) fn edge(&mut self, target: Obj, handle: *const ()) {
        #[cfg(feature = "verify")]
        self.handles.push(handle.addr());
        let _ = handle;
        target.prefetch();
        self.edges.push(target);
    }

    /// The edges since the last [`clear`](Self::clear).
    #[inline]
    pub(crate) fn edges(&self) -> &[Obj] {
        &self.edges
    }

    /// Where the handles are; nothing without `verify`.
    #[inline]
    pub(crate) fn handles(&self) -> &[usize] {
        #[cfg(feature = "verify")]
        return &self.handles;
        #[cfg(not(feature = "verify"))]
        &[]
    }

    /// Edges for which there is room.
    pub(crate) fn capacity(&self) -> usize {
        self.edges.capacity()
    }

    /// Gives memory back, but for `keep` edges.
    pub(crate) fn shrink_to(&mut self, keep: usize) {
        self.edges.shrink_to(keep);
    }

    /// Forgets the edges, keeps the memory.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.edges.clear();
        #[cfg(feature = "verify")]
        self.handles.clear();
    }
}

impl std::fmt::Debug for Tracer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracer").field("edges", &self.edges.len()).finish()
    }
}
