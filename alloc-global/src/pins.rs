//! Pins: what holds nearly empty arenas, and how many bytes would go back without it.
//!
//! ```text
//! arena, 4 % of it in blocks:  # . . 1 . . . . 3 . . . ...     a pool of class 64, one of class 6
//!                                    ^         ^
//!                            two pins share the arena: without one, its pool returns;
//!                            a pin that is alone holds the whole arena
//! ```
//!
//! Three passes: a count with all locks held, memory for the blocks found, and a pass that writes
//! their addresses down with all locks held. Which site allocated a block is asked afterwards,
//! without a lock.
//!
//! Unsafe only to promise the walk that all locks are held.

use crate::caches;
use crate::profile::Owners;
use crate::shared::{self, HEAPS};
use alloc_core::{ArenaView, POOL_SIZE, PoolUse, PoolView, USABLE_POOLS};
use core::fmt;
use std::collections::HashMap;

/// An arena of which fewer percent than this are in blocks is nearly empty.
const NEARLY_EMPTY: usize = 10;

/// Room for blocks that come while memory is reserved.
const SPARE: usize = 1024;

/// One holder of nearly empty arenas. See [`pins`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Pin {
    /// The call site where it is known (the block was sampled or traced), else size class and heap.
    pub site: String,
    /// Where no call site is known, the names of the threads that take blocks from that heap now,
    /// at most eight and how many more: most likely one of them took these, but for threads that
    /// ended, and blocks that another thread freed and used again.
    pub threads: Vec<String>,
    /// Addresses of the calls, as in [`Site::stack`](crate::Site), where the pin is of a report:
    /// formats name them by the symbols that they are given, and until then `site` is an address.
    /// Empty from [`pins`], and where no call site is known.
    pub stack: Vec<u64>,
    /// Nearly empty arenas with a block of it.
    pub arenas: u64,
    /// Its blocks there.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that would go back if these blocks were free: all that is left of arenas in which
    /// nobody else has a block, and in others the pools in which nobody else has one.
    pub would_return_bytes: u64,
}

/// A block out of a nearly empty arena.
#[derive(Clone, Copy, Debug)]
struct Found {
    block: usize,
    size: u32,
    heap: u8,
    arena: u32,
    /// Bytes of its arena that are not given back yet.
    resident: u32,
}

/// Who holds the nearly empty arenas: those with less than 10 % of their bytes in blocks, and at
/// least one block.
///
/// The largest `would_return_bytes` first. Blocks that were sampled or traced are named by their
/// call site, which reads debug information; the others by size class, heap, and the threads that
/// take blocks from that heap: which of them allocated a block is not known, for no pool belongs to
/// a thread, blocks carry no header, and the fast path writes nothing down. Blocks in the caches of
/// threads hold arenas too, and count. Costs a step per pool and per block in nearly empty arenas,
/// with all other threads waiting at their slow paths, and 24 bytes per such block meanwhile, and
/// some more for each that is on record.
///
/// ```
/// for pin in alloc_global::pins() {
///     println!("{pin}");
/// }
/// ```
pub fn pins() -> Vec<Pin> {
    let found = find();
    let owners = Owners::of(found.iter().map(|found| found.block));
    let names = owners.names();
    let name_of = |block| names.get(&owners.site_of(block)?.0).cloned();
    group(&found, &threads(), |block| name_of(block).map(Holder::Site))
}

/// The same by stacks, without their names: call sites of one name are apart. Reads no debug information.
#[cfg(feature = "report")]
pub(crate) fn pins_by_stack() -> Vec<Pin> {
    let found = find();
    let owners = Owners::of(found.iter().map(|found| found.block));
    group(&found, &threads(), |block| owners.site_of(block).map(|site| Holder::Stack(site.1)))
}

/// The blocks in nearly empty arenas.
fn find() -> Vec<Found> {
    let mut room = count() + SPARE;
    loop {
        let mut found = Vec::with_capacity(room);
        let all = collect(&mut found);
        if all <= room {
            return found;
        }
        drop(found);
        room = all + SPARE;
    }
}

/// Calls `f` with each pool in use of nearly empty arenas, the number of its arena, and the bytes
/// which that has not given back.
fn for_each_pinned(mut f: impl FnMut(PoolView, u32, u32)) {
    shared::with_all_locked(|all| {
        let mut number = 0;
        let see = |arena: ArenaView| {
            let (mut out, mut resident) = (0, 0);
            for pool in arena.pools() {
                match pool {
                    PoolUse::GivenBack => {}
                    PoolUse::Metadata | PoolUse::Free => resident += POOL_SIZE as u32,
                    PoolUse::Used(pool) => {
                        resident += POOL_SIZE as u32;
                        out += pool.out() * pool.class().size();
                    }
                }
            }
            if out > 0 && out * 100 < NEARLY_EMPTY * USABLE_POOLS * POOL_SIZE {
                for pool in arena.pools() {
                    if let PoolUse::Used(pool) = pool {
                        f(pool, number, resident);
                    }
                }
                number += 1;
            }
        };
        // SAFETY: all locks are held: pools are in bins that nobody uses, or have no class.
        unsafe { all.for_each_arena_view(see) };
    });
}

/// Blocks in nearly empty arenas.
fn count() -> usize {
    let mut blocks = 0;
    for_each_pinned(|pool, _, _| blocks += pool.out());
    blocks
}

/// Writes blocks down as far as there is room; returns how many there are.
fn collect(found: &mut Vec<Found>) -> usize {
    let mut blocks = 0;
    for_each_pinned(|pool, arena, resident| {
        // The casts keep the values: at most 512 bytes, and 2^32 arenas are more than there are
        // addresses for.
        let size = pool.class().size() as u32;
        pool.for_each_out(|block| {
            blocks += 1;
            // Never beyond the capacity: nothing may be allocated here.
            if found.len() < found.capacity() {
                let (block, heap) = (block.addr().get(), pool.owner());
                found.push(Found { block, size, heap, arena, resident });
            }
        });
    });
    blocks
}

/// Who a block belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Holder<'a> {
    Site(String),
    #[cfg_attr(not(feature = "report"), expect(dead_code, reason = "only reports ask by stack"))]
    Stack(&'a [u64]),
    /// Bytes of its blocks, and the heap.
    Class(u32, u8),
}

impl Holder<'_> {
    /// A pin of this holder, with nothing in it yet. `threads` by heap.
    fn pin(self, threads: &[Vec<String>]) -> Pin {
        match self {
            Holder::Site(site) => Pin { site, ..Pin::default() },
            Holder::Stack(stack) => {
                let site = stack.first().map_or(String::new(), |call| format!("{call:#x}"));
                Pin { site, stack: stack.to_vec(), ..Pin::default() }
            }
            Holder::Class(size, heap) => {
                let threads = threads.get(usize::from(heap)).cloned().unwrap_or_default();
                let site = format!("blocks of {size} bytes, heap {heap}");
                Pin { site, threads, ..Pin::default() }
            }
        }
    }
}

/// Threads named for a heap.
const THREADS: usize = 8;

/// The name of a thread. A longer one was cut after 15 bytes, perhaps within a character.
fn name_of(thread: u32) -> Option<String> {
    let name = std::fs::read(format!("/proc/self/task/{thread}/comm")).ok()?;
    Some(String::from_utf8_lossy(name.trim_ascii_end()).into_owned())
}

/// The names of the threads that take blocks from each heap.
fn threads() -> Vec<Vec<String>> {
    let mut all = vec![Vec::new(); HEAPS];
    let process = std::process::id();
    let program = name_of(process);
    caches::for_each_thread(|heap, thread| {
        // One that ended unseen has no name any more.
        let (Some(names), Some(own)) = (all.get_mut(usize::from(heap)), name_of(thread)) else {
            return;
        };
        names.push(match own {
            _ if thread == process => "main".to_owned(),
            // It was given none: it has the program's.
            own if Some(&own) == program.as_ref() => format!("thread {thread}"),
            own => own,
        });
    });
    for names in &mut all {
        names.sort();
        names.dedup();
        let more = names.len().saturating_sub(THREADS);
        if more > 0 {
            names.truncate(THREADS);
            names.push(format!("{more} more"));
        }
    }
    all
}

/// Puts blocks together by site. `found` is in the order of arenas, and of pools within them.
fn group<'a>(
    found: &[Found],
    threads: &[Vec<String>],
    site_of: impl Fn(usize) -> Option<Holder<'a>>,
) -> Vec<Pin> {
    let mut pins: HashMap<Holder<'a>, Pin> = HashMap::new();
    for arena in found.chunk_by(|a, b| a.arena == b.arena) {
        let mut sites: HashMap<Holder<'a>, u64> = HashMap::new();
        for pool in arena.chunk_by(|a, b| a.block / POOL_SIZE == b.block / POOL_SIZE) {
            let mut here: Vec<Holder<'a>> = Vec::new();
            for block in pool {
                let class = Holder::Class(block.size, block.heap);
                let site = site_of(block.block).unwrap_or(class);
                if !here.contains(&site) {
                    here.push(site.clone());
                }
                let pin = pins.entry(site).or_default();
                pin.blocks += 1;
                pin.bytes += u64::from(block.size);
            }
            let alone = here.len() == 1;
            for site in here {
                *sites.entry(site).or_default() += if alone { POOL_SIZE as u64 } else { 0 };
            }
        }
        let alone = sites.len() == 1;
        let resident = arena.first().map_or(0, |block| u64::from(block.resident));
        for (site, pools) in sites {
            let pin = pins.entry(site).or_default();
            pin.arenas += 1;
            pin.would_return_bytes += if alone { resident } else { pools };
        }
    }
    let with_name = |(holder, pin): (Holder<'_>, Pin)| {
        let Pin { site, threads, stack, .. } = holder.pin(threads);
        Pin { site, threads, stack, ..pin }
    };
    let mut pins: Vec<Pin> = pins.into_iter().map(with_name).collect();
    pins.sort_by(|a, b| {
        let by_bytes = b.would_return_bytes.cmp(&a.would_return_bytes);
        by_bytes.then_with(|| (&a.site, &a.stack).cmp(&(&b.site, &b.stack)))
    });
    pins
}

impl Pin {
    /// The site, and threads if there are any.
    pub(crate) fn holder(&self) -> String {
        match self.threads.as_slice() {
            [] => self.site.clone(),
            threads => format!("{} ({})", self.site, threads.join(", ")),
        }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pin { would_return_bytes, blocks, bytes, arenas, .. } = self;
        write!(
            f,
            "{would_return_bytes} bytes would return: {blocks} blocks ({bytes} bytes) in {arenas} nearly empty arenas: {}",
            self.holder()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARENA: usize = 1 << 20;

    fn found(arena: u32, pool: usize, slot: usize, size: u32, heap: u8) -> Found {
        let block = (arena as usize + 1) * ARENA + pool * POOL_SIZE + slot * size as usize;
        Found { block, size, heap, arena, resident: 500_000 }
    }

    #[test]
    fn who_is_alone_in_an_arena_holds_all_of_it_and_else_the_own_pools() {
        let blocks = [
            found(0, 1, 0, 64, 0),
            found(0, 1, 1, 64, 0),
            found(0, 2, 0, 8, 1),
            found(1, 1, 0, 64, 0),
        ];
        let threads = [vec!["main".to_owned(), "3 more".to_owned()], Vec::new()];
        let pins = group(&blocks, &threads, |_| None);
        let pool = POOL_SIZE as u64;
        assert_eq!(pins.len(), 2);
        assert_eq!(pins[0].site, "blocks of 64 bytes, heap 0");
        assert_eq!((pins[0].arenas, pins[0].blocks, pins[0].bytes), (2, 3, 192));
        assert_eq!(pins[0].would_return_bytes, 500_000 + pool);
        assert_eq!((pins[1].blocks, pins[1].would_return_bytes), (1, pool));
        assert_eq!(pins[0].threads, threads[0]);
        assert!(pins[0].to_string().ends_with(": blocks of 64 bytes, heap 0 (main, 3 more)"));
        assert!(pins[1].to_string().ends_with(": blocks of 8 bytes, heap 1"), "{}", pins[1]);
    }

    #[test]
    fn a_name_that_was_cut_within_a_character_is_a_name() {
        // 15 bytes end after the first of the two of the last letter.
        let thread = std::thread::Builder::new().name("fourteen bytes\u{E9}".to_owned());
        let named = thread.spawn(|| {
            let own = std::fs::read_link("/proc/thread-self").unwrap();
            name_of(own.file_name().unwrap().to_str().unwrap().parse().unwrap())
        });
        assert_eq!(named.unwrap().join().unwrap().as_deref(), Some("fourteen bytes\u{FFFD}"));
        assert_eq!(name_of(0), None);
    }

    #[test]
    fn sites_that_share_a_pool_hold_it_together() {
        let blocks = [found(0, 1, 0, 64, 0), found(0, 1, 1, 64, 0), found(0, 3, 0, 64, 0)];
        let first = blocks[0].block;
        let threads = [vec!["main".to_owned()]];
        let pins = group(&blocks, &threads, |block| {
            (block == first).then(|| Holder::Site("parse.rs:7".to_owned()))
        });
        assert_eq!(pins.len(), 2);
        assert_eq!(pins[0].would_return_bytes, POOL_SIZE as u64, "the third pool");
        let named = pins.iter().find(|pin| pin.site == "parse.rs:7").unwrap();
        assert_eq!((named.blocks, named.would_return_bytes), (1, 0));
        assert!(named.threads.is_empty() && named.to_string().ends_with("parse.rs:7"));
    }
}
