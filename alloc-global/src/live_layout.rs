//! The statistics file: its layout, how it is written and read. A program writes, `poolalloc-top`
//! reads, through shared memory.
//!
//! ```text
//! offset  words of 64 bits, in the machine's byte order
//!      0  magic        "POOLTOP1"
//!      8  version      1
//!     16  len          bytes of the file
//!     24  pid
//!     32  watch        32 bits, raised by a reader that looks, and a futex; 32 bits unused
//!     40  sequence     odd while the rest is written
//!     48  updated      milliseconds on the writer's clock
//!     56  arenas       in the process; the grid may hold fewer
//!     64  settings[8]  purge delay in ms, bytes cached per thread, bytes from which huge pages are asked for, sampling
//!                      distance; 4 unused
//!    128  stats[32]    in the order of `STATS`; the rest unused
//!    384  classes[64]  8 words each: allocs, deallocs, live blocks, cached blocks, free blocks, pools; 2 unused
//!   4480  grid[1024]   9 words each: start, then 64 bytes, a character for each pool
//! ```
//!
//! A sequence lock: the writer makes `sequence` odd, writes, and makes it even; a reader that finds
//! it odd or changed reads again (Boehm, "Can seqlocks get along with programming language memory
//! models?", 2012).
//!
//! Invariants:
//!
//! 1. A file is `len` bytes long and all of them are allocated before anybody maps it.
//! 2. Only the process `pid` writes, but for `watch`; all words are atomic on both sides.
//!
//! It does not know when to write: that is `live_file`. No unsafe here.

use crate::classes::ClassStats;
use crate::stats::Stats;
use core::mem::offset_of;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU32, AtomicU64, fence};

/// The first word.
pub(crate) const MAGIC: u64 = u64::from_ne_bytes(*b"POOLTOP1");

/// Raised with every change of the layout or of [`STATS`].
pub(crate) const VERSION: u64 = 1;

/// Arenas that the grid holds.
pub(crate) const GRID: usize = 1024;

/// The counters in `stats`, in order: those of [`Stats::rows`].
pub(crate) const STATS: [&str; 22] = [
    "allocs",
    "deallocs",
    "reallocs",
    "reallocs in place",
    "reallocs moved",
    "realloc bytes copied",
    "live blocks",
    "live bytes",
    "peak live bytes",
    "arenas",
    "peak arenas",
    "pools",
    "peak pools",
    "mapped bytes",
    "free bytes",
    "fallback live blocks",
    "fallback live bytes",
    "fallback allocs",
    "fallback deallocs",
    "fallback cached bytes",
    "orphan allocs",
    "threads",
];

/// The settings in `settings`, in order.
pub(crate) const SETTINGS: [&str; 4] = [
    "POOLALLOC_PURGE_DELAY_MS",
    "POOLALLOC_FALLBACK_CACHE",
    "POOLALLOC_HUGE_PAGES",
    "POOLALLOC_SAMPLE",
];

/// See the head of this file. Zero bytes are a file that nobody wrote yet.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) magic: AtomicU64,
    pub(crate) version: AtomicU64,
    pub(crate) len: AtomicU64,
    pub(crate) pid: AtomicU64,
    pub(crate) watch: AtomicU32,
    unused: AtomicU32,
    pub(crate) sequence: AtomicU64,
    pub(crate) updated: AtomicU64,
    pub(crate) arenas: AtomicU64,
    pub(crate) settings: [AtomicU64; 8],
    pub(crate) stats: [AtomicU64; 32],
    pub(crate) classes: [[AtomicU64; 8]; 64],
    pub(crate) grid: [[AtomicU64; 9]; GRID],
}

const _: () = assert!(offset_of!(Live, watch) == 32);
const _: () = assert!(offset_of!(Live, sequence) == 40);
const _: () = assert!(offset_of!(Live, settings) == 64);
const _: () = assert!(offset_of!(Live, stats) == 128);
const _: () = assert!(offset_of!(Live, classes) == 384);
const _: () = assert!(offset_of!(Live, grid) == 4480);
const _: () = assert!(size_of::<Live>() == 4480 + GRID * 72);

/// Length of the file: whole pages.
pub(crate) const LEN: usize = size_of::<Live>().next_multiple_of(4096);

/// What the words of a class stand for.
pub(crate) fn class_words(class: &ClassStats) -> [u64; 6] {
    [
        class.allocs,
        class.deallocs,
        class.live_blocks,
        class.cached_blocks,
        class.free_blocks,
        class.pools,
    ]
}

/// Eight pools' characters as a word.
pub(crate) fn pack(symbols: [u8; 8]) -> u64 {
    u64::from_ne_bytes(symbols)
}

impl Live {
    /// Whether this is a file that this version reads; if not, why.
    pub(crate) fn check(&self) -> Result<(), String> {
        // Acquire: pairs with the Release in `begin_file`.
        if self.magic.load(Acquire) != MAGIC {
            return Err("it is no statistics file".to_owned());
        }
        // Relaxed: written before the magic.
        match self.version.load(Relaxed) {
            VERSION => Ok(()),
            other => Err(format!("it has version {other}, this program reads {VERSION}")),
        }
    }

    /// Writes what never changes. The magic comes last: from then on the file is one.
    pub(crate) fn begin_file(&self, pid: u64) {
        // Relaxed, thrice: the Release below publishes them.
        self.version.store(VERSION, Relaxed);
        self.len.store(LEN as u64, Relaxed);
        self.pid.store(pid, Relaxed);
        // Release: pairs with the Acquire in `check`.
        self.magic.store(MAGIC, Release);
    }

    /// Runs `write` between an odd and an even `sequence`.
    pub(crate) fn write(&self, write: impl FnOnce(&Live)) {
        // Relaxed: one thread writes.
        let sequence = self.sequence.load(Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Relaxed);
        // Release fence: what is stored after it is seen only with the odd number; pairs with the
        // Acquire fence in `read`.
        fence(Release);
        write(self);
        // Release: whoever sees this number sees all that was stored before.
        self.sequence.store(sequence.wrapping_add(2), Release);
    }

    /// Everything in the file, of one moment; `None` while the writer is at it, or has never been.
    pub(crate) fn read(&self) -> Option<LiveFrame> {
        // Acquire: pairs with the Release at the end of `write`.
        let before = self.sequence.load(Acquire);
        if before == 0 || before % 2 == 1 {
            return None;
        }
        let frame = self.read_words();
        // Acquire fence: pairs with the Release fence in `write`.
        fence(Acquire);
        // Relaxed: ordered by the fence.
        (self.sequence.load(Relaxed) == before).then_some(frame)
    }

    fn read_words(&self) -> LiveFrame {
        // Relaxed everywhere: `read` finds out whether they belong together.
        let load = |word: &AtomicU64| word.load(Relaxed);
        let class = |(index, words): (usize, &[AtomicU64; 8])| {
            let [allocs, deallocs, live, cached, free, pools, ..] = words.each_ref().map(load);
            let size = (index as u64 + 1) * 8;
            let (live_blocks, live_bytes) = (live, live.saturating_mul(size));
            let (cached_blocks, free_blocks) = (cached, free);
            ClassStats {
                size,
                allocs,
                deallocs,
                live_blocks,
                live_bytes,
                cached_blocks,
                free_blocks,
                pools,
            }
        };
        let arenas = load(&self.arenas);
        let in_grid = usize::try_from(arenas).unwrap_or(GRID).min(GRID);
        let mut grid: Vec<LiveArena> = self.grid.iter().take(in_grid).map(read_arena).collect();
        grid.sort_unstable_by_key(|arena| arena.start);
        LiveFrame {
            pid: load(&self.pid),
            updated_ms: load(&self.updated),
            arenas,
            settings: SETTINGS.into_iter().zip(self.settings.iter().map(load)).collect(),
            stats: STATS.into_iter().zip(self.stats.iter().map(load)).collect(),
            classes: self.classes.iter().enumerate().map(class).collect(),
            grid,
        }
    }
}

fn read_arena(words: &[AtomicU64; 9]) -> LiveArena {
    // Relaxed: as in `read_words`.
    let mut words = words.iter().map(|word| word.load(Relaxed));
    let start = words.next().unwrap_or(0);
    let symbol = |byte: u8| if byte.is_ascii_graphic() { char::from(byte) } else { '?' };
    let symbols = words.flat_map(u64::to_ne_bytes).map(symbol).collect();
    LiveArena { start, symbols }
}

/// One moment of a program, as its statistics file shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LiveFrame {
    /// The process.
    pub pid: u64,
    /// When it was written, in milliseconds on a clock that only goes forward.
    pub updated_ms: u64,
    /// Arenas in use; `grid` holds at most 1,024 of them.
    pub arenas: u64,
    /// Settings by name.
    pub settings: Vec<(&'static str, u64)>,
    /// The counters of [`Stats`](crate::Stats) by name.
    pub stats: Vec<(&'static str, u64)>,
    /// The 64 size classes.
    pub classes: Vec<ClassStats>,
    /// Arenas, in the order of their addresses.
    pub grid: Vec<LiveArena>,
}

impl LiveFrame {
    /// A counter by the name it has in `stats`; 0 if there is none of that name.
    pub fn stat(&self, name: &str) -> u64 {
        self.stats.iter().find(|stat| stat.0 == name).map_or(0, |stat| stat.1)
    }
}

/// One arena in a statistics file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LiveArena {
    /// Its first address.
    pub start: u64,
    /// A character for each of its 64 pools: see [`PoolMap::symbol`](crate::PoolMap::symbol).
    pub symbols: String,
}

/// The counters in the order of the file.
pub(crate) fn stat_words(stats: &Stats) -> impl Iterator<Item = u64> {
    stats.rows().map(|row| row.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Box<Live> {
        // Zero bytes are a file that nobody wrote.
        Box::new(Live {
            magic: AtomicU64::new(0),
            version: AtomicU64::new(0),
            len: AtomicU64::new(0),
            pid: AtomicU64::new(0),
            watch: AtomicU32::new(0),
            unused: AtomicU32::new(0),
            sequence: AtomicU64::new(0),
            updated: AtomicU64::new(0),
            arenas: AtomicU64::new(0),
            settings: [const { AtomicU64::new(0) }; 8],
            stats: [const { AtomicU64::new(0) }; 32],
            classes: [const { [const { AtomicU64::new(0) }; 8] }; 64],
            grid: [const { [const { AtomicU64::new(0) }; 9] }; GRID],
        })
    }

    #[test]
    fn the_names_are_those_of_the_counters() {
        let names: Vec<&str> = Stats::default().rows().map(|row| row.0).collect();
        assert_eq!(names, STATS, "raise VERSION and follow");
    }

    #[test]
    fn what_is_written_is_read() {
        let file = file();
        assert!(file.check().unwrap_err().contains("no statistics file"));
        file.begin_file(77);
        assert_eq!(file.check(), Ok(()));
        assert_eq!(file.read(), None, "nothing was written yet");
        file.write(|file| {
            assert_eq!(file.read(), None, "half written");
            file.arenas.store(2, Relaxed);
            file.stats[6].store(123, Relaxed);
            file.settings[0].store(500, Relaxed);
            let class = ClassStats { live_blocks: 9, pools: 2, ..ClassStats::default() };
            for (to, from) in file.classes[2].iter().zip(class_words(&class)) {
                to.store(from, Relaxed);
            }
            for (arena, start) in file.grid.iter().zip([2 << 20, 1 << 20]) {
                arena[0].store(start, Relaxed);
                arena[1..].iter().for_each(|word| word.store(pack(*b"#*5._123"), Relaxed));
            }
        });
        let frame = file.read().unwrap();
        assert_eq!((frame.pid, frame.arenas, frame.stat("live blocks")), (77, 2, 123));
        assert_eq!(frame.settings[0], ("POOLALLOC_PURGE_DELAY_MS", 500));
        let class = &frame.classes[2];
        assert_eq!((class.size, class.live_blocks, class.live_bytes, class.pools), (24, 9, 216, 2));
        assert_eq!(frame.grid.len(), 2);
        assert!(frame.grid[0].start < frame.grid[1].start);
        assert_eq!(frame.grid[0].symbols, "#*5._123".repeat(8));
        file.version.store(2, Relaxed);
        assert!(file.check().unwrap_err().contains("version 2"));
    }

    #[test]
    fn a_frame_is_never_of_two_moments() {
        let file = file();
        file.begin_file(1);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for round in 1..=3_000u64 {
                    file.write(|file| {
                        file.updated.store(round, Relaxed);
                        file.stats.iter().for_each(|word| word.store(round, Relaxed));
                    });
                }
            });
            let mut frames = 0;
            while !writer.is_finished() || frames == 0 {
                if let Some(frame) = file.read() {
                    frames += 1;
                    assert!(frame.stats.iter().all(|stat| stat.1 == frame.updated_ms));
                }
            }
        });
    }
}
