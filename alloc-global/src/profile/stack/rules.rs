//! Walks by unwind rules: where a program keeps no frame pointers, the tables that unwinders read
//! say for each address of code where the caller's frame is. Read once for an address, and kept
//! here in a word.
//!
//! ```text
//! kept:  | tag (37 at most) | kind (2) | by frame pointer (1) | offset / 8 (13) | saved / 8 (11) |
//!
//!               register + offset = the caller's stack pointer
//!                                             |
//!    ... | caller's frame pointer | .. | return address | caller's frame ...
//!          `saved` bytes below it         8 bytes below it
//! ```
//!
//! With its rules at hand a stack costs some 30 instructions a frame; the C library's unwinder,
//! which reads and runs the tables at every frame anew, costs 350.
//!
//! Invariants:
//!
//! 1. The walk reads only words that lie wholly between the stack pointer it starts from and the
//!    top of the thread's stack.
//! 2. Stack pointers grow strictly, so the walk ends.
//! 3. A kept word is the rule of one address and no other: its place and its tag together are the
//!    address, mixed.
//!
//! What needs more than a rule of this form (signal frames, frames above 64 KiB) is left to the
//! unwinder, as is a stack that is not the thread's own, and one that is too short for a rule to be
//! read. Rules of libraries other than the C library are read each time: they may be unloaded, and
//! others loaded in their place. Frames of the allocator itself are kept, as in `stack`.
//!
//! Rules that are kept by address: framehop (Markus Stange). Unsafe to read words of the stack.

use super::{Bounds, End, GOLDEN, Stack};
use crate::profile::pages::{self, Area};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use registers::read_word;
pub(super) use registers::{Registers, registers};

mod cfi;
mod registers;

use cfi::is_ready;
pub(crate) use cfi::prepare;

/// How the caller's frame is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rule {
    /// There is no caller.
    Last,
    /// Only the unwinder can tell.
    Other,
    /// The caller's stack pointer lies `offset` bytes above the frame pointer or the stack pointer,
    /// its return address in the word below that, and its frame pointer, where it is not what it is
    /// now, `saved` bytes below.
    Caller { by_fp: bool, offset: usize, saved: Option<usize> },
}

const WORD: usize = size_of::<usize>();

const SAVED_BITS: u32 = 11;
const OFFSET_BITS: u32 = 13;
const KIND_AT: u32 = SAVED_BITS + OFFSET_BITS + 1;
const RULE_BITS: u32 = KIND_AT + 2;

/// Bits of an address of code.
const ADDRESS_BITS: u32 = 48;

/// Bytes that the kept rules take at least: with fewer, a tag would not tell all addresses of one
/// place apart.
const LEAST_BYTES: usize = WORD << (ADDRESS_BITS + RULE_BITS - u64::BITS);

/// Bytes of the stack that are left at least where a rule is read. It takes 5 KiB, and 15 in a
/// build that is not optimised: too much for the smallest threads, which have 16 with what the C
/// library keeps there.
const ROOM_TO_READ: usize = 24 << 10;

/// Enough for the return addresses of a large program.
const MOST_BYTES: usize = 256 << 10;

impl Rule {
    /// The rule in a word, never 0.
    fn pack(self) -> u64 {
        let kind = |kind: u64| kind << KIND_AT;
        match self {
            Rule::Last => kind(1),
            Rule::Other => kind(2),
            Rule::Caller { by_fp, offset, saved } => {
                let (offset, saved) = (offset / WORD, saved.unwrap_or(0) / WORD);
                if offset >> OFFSET_BITS != 0 || saved >> SAVED_BITS != 0 {
                    return Rule::Other.pack();
                }
                let by_fp = u64::from(by_fp) << (SAVED_BITS + OFFSET_BITS);
                kind(3) | by_fp | (offset as u64) << SAVED_BITS | saved as u64
            }
        }
    }

    #[inline]
    fn unpack(word: u64) -> Rule {
        let field = |at: u32, bits: u32| (word >> at) as usize & ((1 << bits) - 1);
        match field(KIND_AT, 2) {
            1 => Rule::Last,
            3 => Rule::Caller {
                by_fp: field(SAVED_BITS + OFFSET_BITS, 1) == 1,
                offset: field(SAVED_BITS, OFFSET_BITS) * WORD,
                saved: Some(field(0, SAVED_BITS) * WORD).filter(|saved| *saved > 0),
            },
            _ => Rule::Other,
        }
    }
}

/// The pages of the kept rules.
static KEPT: Area = Area::new(bytes_wanted);

/// What is kept before the first event of a profile fixes how much its tables may take:
/// measurements (`scope`) have stacks too, and are not to decide that. It is none of those tables.
static FEW: [AtomicU64; LEAST_BYTES / WORD] = [const { AtomicU64::new(0) }; LEAST_BYTES / WORD];

/// Bytes of the pages for kept rules: a power of two.
pub(crate) fn bytes_wanted() -> usize {
    let bytes = (pages::cap() / 64).clamp(LEAST_BYTES, MOST_BYTES);
    1 << bytes.ilog2()
}

/// Bytes of them that are backed by memory.
pub(crate) fn bytes() -> usize {
    KEPT.backed()
}

/// Rules by address; a new one takes the place of another.
#[derive(Clone, Copy)]
struct Kept {
    words: NonNull<u64>,
    /// Bits of a tag; the others of a mixed address are those of its place.
    tag_bits: u32,
}

impl Kept {
    /// Those of the process.
    #[inline]
    fn of_process() -> Option<Kept> {
        if KEPT.mapped().is_none() && !pages::is_cap_fixed() {
            return Some(Kept::few());
        }
        Kept::of(&KEPT)
    }

    #[cold]
    fn few() -> Kept {
        let words = NonNull::from(&FEW).cast();
        Kept { words, tag_bits: ADDRESS_BITS - FEW.len().ilog2() }
    }

    /// Those in an area, if it could be mapped.
    #[inline]
    fn of(area: &'static Area) -> Option<Kept> {
        let words = area.start()?.cast();
        Some(Kept { words, tag_bits: ADDRESS_BITS - (area.len() / WORD).ilog2() })
    }

    /// The place of an address, and its tag there. Different addresses differ in one of the two
    /// (3): an odd factor loses nothing.
    #[inline]
    fn place(&self, address: usize) -> (&'static AtomicU64, u64) {
        const UNUSED: u32 = u64::BITS - ADDRESS_BITS;
        let mixed = (address as u64).wrapping_mul(GOLDEN) << UNUSED >> UNUSED;
        // SAFETY: below the number of words.
        let word = unsafe { self.words.add((mixed >> self.tag_bits) as usize) };
        // SAFETY: there for good, zeroed at first, and touched as atomics only.
        let place = unsafe { AtomicU64::from_ptr(word.as_ptr()) };
        (place, (mixed & ((1 << self.tag_bits) - 1)) << RULE_BITS)
    }

    /// The rule of an address; if it is not kept, and may not be read either, it is the unwinder's.
    #[inline]
    fn rule(&self, address: usize, may_read: bool) -> Rule {
        let (place, tag) = self.place(address);
        // Relaxed: a word tells all there is to know.
        let word = place.load(Ordering::Relaxed);
        // No rule is 0.
        let rule = word ^ tag;
        if rule >> RULE_BITS == 0 && rule != 0 {
            Rule::unpack(rule)
        } else if may_read {
            read(address, place, tag)
        } else {
            Rule::Other
        }
    }
}

/// Reads the tables for an address whose rule is not kept, and keeps it if the code there stays.
#[cold]
#[inline(never)]
fn read(address: usize, place: &AtomicU64, tag: u64) -> Rule {
    let rule = cfi::rule_at(address).pack();
    if cfi::is_lasting(address) {
        // Relaxed: as above.
        place.store(tag | rule, Ordering::Relaxed);
    }
    Rule::unpack(rule)
}

impl Bounds {
    /// Where the stack ends.
    fn end(self) -> usize {
        self.high.saturating_add(2 * WORD)
    }
}

/// Captures the stack from the function that `from` was read in, into an empty stack. `false` where
/// the unwinder is needed: then it is empty still.
#[inline(never)]
pub(super) fn capture(from: Registers, bounds: Bounds, stack: &mut Stack) -> bool {
    let Some(kept) = is_ready().then(Kept::of_process).flatten() else { return false };
    let may_read = from.sp.saturating_sub(bounds.low) >= ROOM_TO_READ;
    // SAFETY: from the stack pointer on, which is in use, the stack is mapped to its top.
    unsafe { walk(from, bounds, stack, |address| kept.rule(address, may_read)) }
}

/// Follows rules from a frame on, as [`capture`] says.
///
/// # Safety
///
/// All words from `from.sp` to the upper bound can be read.
#[inline]
unsafe fn walk(
    from: Registers,
    bounds: Bounds,
    stack: &mut Stack,
    rule_of: impl Fn(usize) -> Rule,
) -> bool {
    let Registers { ip, mut sp, mut fp } = from;
    if !bounds.holds(sp) || sp % WORD != 0 {
        return false;
    }
    // The call before a return address, for that may be where another function begins.
    let mut address = ip;
    loop {
        let Rule::Caller { by_fp, offset, saved } = (match rule_of(address) {
            Rule::Other => {
                *stack = Stack::new(stack.limit);
                return false;
            }
            rule => rule,
        }) else {
            return true;
        };
        let caller = (if by_fp { fp } else { sp }).wrapping_add(offset);
        // Inside, with the word below it, and further up (1, 2).
        if caller <= sp || caller > bounds.end() || caller % WORD != 0 {
            stack.end = End::Corrupt;
            return true;
        }
        // SAFETY: at or above `sp`, and below the upper bound, by the tests above and the one
        // before this is used.
        let read = |at: usize| unsafe { read_word(at) };
        if let Some(saved) = saved {
            let at = caller.wrapping_sub(saved);
            if at < sp || at > caller {
                stack.end = End::Corrupt;
                return true;
            }
            fp = read(at);
        }
        let ip = read(caller - WORD);
        sp = caller;
        address = ip.wrapping_sub(1);
        if ip == 0 || !stack.push(ip) {
            return true;
        }
    }
}

#[cfg(test)]
mod tests;
