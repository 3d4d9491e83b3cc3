//! Objects that no pool serves: more than 512 bytes with the header, or aligned to more than 32.
//!
//! ```text
//! global allocator's block
//! +-----+-----------+-------------+-----------+--------
//! | gap | prefix 48 | metadata 16 | header 16 | value ...
//! +-----+-----------+-------------+-----------+--------
//!       ^ header - 64             ^ header
//! ```
//!
//! Invariants (checked by `Heap::check`):
//!
//! 1. `objects[prefix.index]` is the object itself, and every large object of the heap is there.
//! 2. `candidates[g][i]` is the object itself if it is a candidate that is looked for in generation g and
//!    `prefix.candidate` is 4 i + g; else `prefix.candidate` is [`NONE`].
//! 3. `bytes` is the sum of their blocks.
//!
//! It does not run user code; it does not know when an object dies.

use std::alloc::Layout;
use std::cell::{Cell, RefCell};
use std::ptr::NonNull;

use crate::generations::Generation;
use crate::header::{Header, LEAF, Obj, PURPLE};
use crate::heap::Inner;

/// In no list.
const NONE: usize = usize::MAX;
/// From the prefix to the header: prefix and room for metadata.
const TO_HEADER: usize = size_of::<Prefix>() + 16;

/// What a large object's pool would know.
#[repr(C)]
struct Prefix {
    heap: NonNull<Inner>,
    base: NonNull<u8>,
    layout: Layout,
    index: Cell<usize>,
    candidate: Cell<usize>,
}

const _: () = assert!(TO_HEADER.is_multiple_of(8));

/// The large objects of a heap.
pub(crate) struct Large {
    objects: RefCell<Vec<Obj>>,
    candidates: [RefCell<Vec<Obj>>; 3],
    /// Bytes of all blocks.
    bytes: Cell<u64>,
}

/// Bytes from the start of the block to the value, and the layout of the block.
fn block_of(value: Layout) -> Option<(usize, Layout)> {
    let align = value.align().max(align_of::<Prefix>());
    let before = (TO_HEADER + size_of::<Header>()).next_multiple_of(align);
    let size = before.checked_add(value.size())?;
    Some((before, Layout::from_size_align(size, align).ok()?))
}

/// Whether a value of this layout is small enough for any object.
pub(crate) fn fits(value: &Layout) -> bool {
    block_of(*value).is_some()
}

/// # Safety
/// The object is LARGE.
unsafe fn prefix<'a>(obj: Obj) -> &'a Prefix {
    // SAFETY: `allocate` left this room before the header, in the same block.
    let prefix = unsafe { obj.header().byte_sub(TO_HEADER) }.cast::<Prefix>();
    // SAFETY: written by `allocate`, read only until `free`; shared because of its `Cell`s.
    unsafe { prefix.as_ref() }
}

/// The heap of a large object.
///
/// # Safety
/// The object is LARGE.
pub(crate) unsafe fn heap_of(obj: Obj) -> NonNull<Inner> {
    // SAFETY: by contract.
    unsafe { prefix(obj) }.heap
}

impl Large {
    /// No objects.
    pub(crate) const fn new() -> Self {
        Large {
            objects: RefCell::new(Vec::new()),
            candidates: [const { RefCell::new(Vec::new()) }; 3],
            bytes: Cell::new(0),
        }
    }

    /// Memory for an object with a value of this layout, its header not yet written. `None`: the
    /// global allocator has no more.
    pub(crate) fn allocate(&self, heap: &Inner, value: Layout) -> Option<NonNull<Header>> {
        let (before, layout) = block_of(value)?;
        // SAFETY: the layout has a size: at least that of a header.
        let base = NonNull::new(unsafe { std::alloc::alloc(layout) })?;
        // SAFETY: the value, and the header before it, lie inside the block.
        let header = unsafe { base.add(before) }.cast::<Header>();
        // SAFETY: as above.
        let header = unsafe { header.sub(1) };
        // SAFETY: `before` leaves room for the prefix.
        let at = unsafe { header.byte_sub(TO_HEADER) }.cast::<Prefix>();
        // SAFETY: the header is the caller's to write; until then only the address is kept.
        let obj = unsafe { Obj::at(header) };
        let mut objects = self.objects.borrow_mut();
        let index = Cell::new(objects.len());
        let prefix =
            Prefix { heap: heap.pointer(), base, layout, index, candidate: Cell::new(NONE) };
        // SAFETY: in bounds, aligned to 8, exclusive.
        unsafe { at.write(prefix) };
        objects.push(obj);
        self.bytes.set(self.bytes.get() + layout.size() as u64);
        Some(header)
    }

    /// Gives an object's memory back.
    ///
    /// # Safety
    /// The object is LARGE, of this heap, and not used afterwards.
    #[inline]
    pub(crate) unsafe fn free(&self, obj: Obj) {
        if obj.word() & PURPLE != 0 && !obj.has(LEAF) {
            // SAFETY: by contract.
            unsafe { self.clear_candidate(obj) };
        }
        // SAFETY: by contract.
        let Prefix { base, layout, ref index, .. } = *unsafe { prefix(obj) };
        let index = index.get();
        let mut objects = self.objects.borrow_mut();
        objects.swap_remove(index);
        if let Some(&moved) = objects.get(index) {
            // SAFETY: in `objects`: LARGE (1).
            unsafe { prefix(moved) }.index.set(index);
        }
        self.bytes.set(self.bytes.get() - layout.size() as u64);
        // SAFETY: from `allocate`, with this layout.
        unsafe { std::alloc::dealloc(base.as_ptr(), layout) };
    }

    /// Notes a candidate of a generation.
    ///
    /// # Safety
    /// The object is LARGE and of this heap.
    pub(crate) unsafe fn set_candidate(&self, obj: Obj, generation: Generation) {
        // SAFETY: by contract.
        let at = &unsafe { prefix(obj) }.candidate;
        if at.get() == NONE {
            let mut candidates = self.candidates[generation.index()].borrow_mut();
            at.set(candidates.len() * 4 + generation.index());
            candidates.push(obj);
        }
    }

    /// Forgets a candidate.
    ///
    /// # Safety
    /// The object is LARGE and of this heap.
    pub(crate) unsafe fn clear_candidate(&self, obj: Obj) {
        // SAFETY: by contract.
        let at = unsafe { prefix(obj) }.candidate.replace(NONE);
        if at == NONE {
            return;
        }
        let mut candidates = self.candidates[at % 4].borrow_mut();
        candidates.swap_remove(at / 4);
        if let Some(&moved) = candidates.get(at / 4) {
            // SAFETY: in `candidates`: LARGE (2).
            unsafe { prefix(moved) }.candidate.set(at);
        }
    }

    /// Whether an object is noted as a candidate.
    ///
    /// # Safety
    /// The object is LARGE and of this heap.
    pub(crate) unsafe fn is_candidate(&self, obj: Obj) -> bool {
        // SAFETY: by contract.
        unsafe { prefix(obj) }.candidate.get() != NONE
    }

    /// Bytes of all blocks.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Keeps no more room in the lists than a small heap needs. There is no object.
    pub(crate) fn shrink(&self) {
        for list in [&self.objects].into_iter().chain(&self.candidates) {
            list.borrow_mut().shrink_to(1 << 10);
        }
    }

    /// Number of objects.
    pub(crate) fn len(&self) -> usize {
        self.objects.borrow().len()
    }

    /// Calls `f` with every candidate of generation 0, and with `middle` of 1; they are candidates
    /// of the next one then.
    pub(crate) fn age_candidates(&self, middle: bool, mut f: impl FnMut(Obj)) {
        let last = if middle { 1 } else { 0 };
        for generation in 0..=last {
            for obj in self.candidates[generation].borrow_mut().drain(..) {
                let mut to = self.candidates[last + 1].borrow_mut();
                // SAFETY: in `candidates`: LARGE (2).
                unsafe { prefix(obj) }.candidate.set(to.len() * 4 + last + 1);
                to.push(obj);
                f(obj);
            }
        }
    }

    /// Calls `f` with every candidate; afterwards there are none.
    pub(crate) fn take_candidates(&self, mut f: impl FnMut(Obj)) {
        for candidates in &self.candidates {
            for obj in candidates.borrow_mut().drain(..) {
                // SAFETY: in `candidates`: LARGE (2).
                unsafe { prefix(obj) }.candidate.set(NONE);
                f(obj);
            }
        }
    }

    /// Calls `f` with every object, dead and unborn ones too.
    pub(crate) fn for_each(&self, f: impl FnMut(Obj)) {
        self.objects.borrow().iter().copied().for_each(f);
    }

    /// Calls `f` with every object and the size of its block, unless the list is being changed.
    #[cfg(feature = "report")]
    pub(crate) fn for_each_sized(&self, mut f: impl FnMut(Obj, usize)) {
        let Ok(objects) = self.objects.try_borrow() else { return };
        for &obj in &*objects {
            // SAFETY: in `objects`: LARGE (1).
            f(obj, unsafe { prefix(obj) }.layout.size());
        }
    }

    /// Verifies all of them.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let mut bytes = 0;
        for (index, &obj) in self.objects.borrow().iter().enumerate() {
            // SAFETY: in `objects`.
            let prefix = unsafe { prefix(obj) };
            if prefix.index.get() != index {
                return Err("large 1: an object does not know its place");
            }
            let candidate = prefix.candidate.get();
            let known = |list: &RefCell<Vec<Obj>>| list.borrow().get(candidate / 4) == Some(&obj);
            if candidate != NONE && !self.candidates.get(candidate % 4).is_some_and(known) {
                return Err("large 2: a candidate does not know its place");
            }
            bytes += prefix.layout.size() as u64;
        }
        if bytes != self.bytes.get() {
            return Err("large 3: the sum of bytes is wrong");
        }
        Ok(())
    }
}
