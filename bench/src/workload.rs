//! What a workload is, how big it is, and how its time is taken.
//!
//! A workload is a name, a kind and a function from [`Scale`] to [`Outcome`]. It allocates only
//! through `Box`, `Vec`, `String`, collections and `std::alloc`, so that it runs on whatever global
//! allocator the process has. Three rules hold for all of them:
//!
//! 1. **Fixed work.** The operations depend on the scale and the seed alone, never on time.
//! 2. **Fixed checksum.** It depends on the scale and the seed alone: not on addresses, not on the
//!    order in which threads ran, not on the allocator.
//! 3. **Everything is freed** and every thread has ended before the function returns. What remains
//!    are the few blocks that libraries keep for the life of the process (thread-local handles of
//!    the channels, minijinja's tables of filters), made in a process's first run only.
//!
//! This module does not run workloads in processes and does not compare them; see `main.rs`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

pub use crate::loads::all;

/// What a workload stands for; the tables are grouped by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One thread, mostly blocks of up to 512 bytes.
    Micro,
    /// Several threads: blocks that cross them, or threads that come and go.
    Threads,
    /// One thread, blocks above 512 bytes or a mix with them.
    Large,
    /// A real program's work.
    Real,
    /// Chosen to show resident memory rather than time.
    Memory,
    /// Objects that hold each other in cycles.
    Cycles,
}

impl Kind {
    /// Its name in tables and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Micro => "micro",
            Kind::Threads => "threads",
            Kind::Large => "large",
            Kind::Real => "real",
            Kind::Memory => "memory",
            Kind::Cycles => "cycles",
        }
    }
}

/// One piece of work that an allocator is measured on.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Unique, in kebab case.
    pub name: &'static str,
    /// The group it belongs to.
    pub kind: Kind,
    /// One line on what it does.
    pub about: &'static str,
    /// What [`Outcome::units`] counts, in the singular.
    pub unit: &'static str,
    /// Runs it.
    pub run: fn(&Scale) -> Outcome,
}

/// How much work to do, and on which random numbers.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// The same work with a sixth of the operations.
    pub quick: bool,
    /// Start of every random sequence.
    pub seed: u64,
}

impl Scale {
    /// How often to repeat what is done `full` times at full scale: at least once.
    ///
    /// The crate's own unit tests do a thousandth, so that every workload can be run in them.
    #[must_use]
    pub fn of(&self, full: u64) -> u64 {
        let divisor = match (cfg!(test), self.quick) {
            (true, _) => 1000,
            (false, true) => 6,
            (false, false) => 1,
        };
        (full / divisor).max(1)
    }

    /// A size in items that quick runs keep, because it decides what is measured (live blocks,
    /// say); the crate's own unit tests take a hundredth.
    #[must_use]
    pub fn keep(&self, full: usize) -> usize {
        if cfg!(test) { (full / 100).max(2) } else { full }
    }

    /// The generator of stream `stream`. Different streams (one per thread, say) are independent.
    #[must_use]
    pub fn rng(&self, stream: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(fold(fold(0x9E37_79B9_7F4A_7C15, self.seed), stream))
    }
}

/// What a run did and what it took.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Operations done.
    pub units: u64,
    /// Equal for equal scale and seed, on every allocator.
    pub checksum: u64,
    /// Wall time of the timed part, in seconds. Making the input is not in it.
    pub seconds: f64,
    /// User and system time of the whole process during the timed part, in seconds.
    pub cpu_seconds: f64,
    /// Figures that only this workload has, by name.
    pub extra: Vec<(&'static str, f64)>,
}

/// Times `work`, which returns the units it did and its checksum.
pub fn measure(work: impl FnOnce() -> (u64, u64)) -> Outcome {
    let mut done = (0, 0);
    let (seconds, cpu_seconds) = timed(|| done = work());
    Outcome { units: done.0, checksum: done.1, seconds, cpu_seconds, extra: Vec::new() }
}

/// Runs `work`; returns the wall time and the processor time of the process, both in seconds.
pub fn timed(work: impl FnOnce()) -> (f64, f64) {
    let count = || COUNTER.get().map_or(0, |count| count());
    let (before, cpu, start) = (count(), cpu_seconds(), Instant::now());
    work();
    let took = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    // Relaxed: read by this thread.
    COUNTED.fetch_add(count().wrapping_sub(before), Ordering::Relaxed);
    took
}

/// Tells how many blocks the process ever allocated, on allocators that count.
static COUNTER: OnceLock<fn() -> u64> = OnceLock::new();

/// Blocks allocated in timed parts.
static COUNTED: AtomicU64 = AtomicU64::new(0);

/// Has allocations of the timed parts counted from now on, by a function that tells how many there
/// ever were.
pub fn count_allocations(count: fn() -> u64) {
    // The first one stays.
    let _ = COUNTER.set(count);
}

/// How many there were; `None` where nobody counts.
#[must_use]
pub fn counted_allocations() -> Option<u64> {
    COUNTER.get().map(|_| COUNTED.load(Ordering::Relaxed))
}

/// User plus system time of this process so far, in seconds.
fn cpu_seconds() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is writable and as large as the call expects.
    let result = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    assert_eq!(result, 0, "getrusage(RUSAGE_SELF) fails only for a bad argument");
    // SAFETY: `rusage` holds integers only, for which the zeroes it began with are valid.
    let usage = unsafe { usage.assume_init() };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Mixes `value` into the checksum `sum`; the order of calls matters.
#[must_use]
pub fn fold(sum: u64, value: u64) -> u64 {
    let mixed = (sum.rotate_left(5) ^ value).wrapping_mul(0x517C_C1B7_2722_0A95);
    mixed ^ (mixed >> 32)
}

/// Mixes the bytes of `text` into the checksum `sum`.
#[must_use]
pub fn fold_bytes(sum: u64, text: &[u8]) -> u64 {
    let mut sum = fold(sum, text.len() as u64);
    for chunk in text.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        sum = fold(sum, u64::from_le_bytes(word));
    }
    sum
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const TINY: Scale = Scale { quick: true, seed: 7 };

    #[test]
    fn names_are_unique_and_kebab_case() {
        let mut seen = HashSet::new();
        for load in all() {
            let kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(load.name.chars().all(kebab), "{}", load.name);
            assert!(seen.insert(load.name), "{} stands twice in the table", load.name);
            assert!(!load.about.is_empty() && !load.unit.is_empty(), "{}", load.name);
        }
    }

    #[test]
    fn every_workload_gives_the_same_checksum_and_units_on_every_run() {
        for load in all() {
            let first = (load.run)(&TINY);
            let second = (load.run)(&TINY);
            assert!(first.units > 0, "{} did nothing", load.name);
            assert_eq!(first.units, second.units, "{}", load.name);
            assert_eq!(first.checksum, second.checksum, "{}", load.name);
            assert!(first.seconds >= 0.0 && first.cpu_seconds >= 0.0, "{}", load.name);
        }
    }

    #[test]
    fn random_workloads_follow_the_seed() {
        for name in ["pair-sizes", "replace-10k", "larson-2", "mstress", "json", "templates"] {
            let load = all().iter().find(|load| load.name == name).expect(name);
            let other = Scale { seed: TINY.seed + 1, ..TINY };
            assert_ne!((load.run)(&TINY).checksum, (load.run)(&other).checksum, "{name}");
        }
    }

    #[test]
    fn timing_counts_the_processor_time_of_other_threads() {
        let spin = || {
            let start = cpu_seconds();
            while cpu_seconds() - start < 0.02 {
                std::hint::spin_loop();
            }
        };
        let (seconds, cpu) = timed(|| std::thread::scope(|s| drop(s.spawn(spin))));
        assert!(seconds > 0.0 && cpu >= 0.02, "{seconds} s, {cpu} s of processor time");
    }

    #[test]
    fn checksums_of_bytes_see_length_and_order() {
        let sum = |text: &str| fold_bytes(0, text.as_bytes());
        assert_ne!(sum("a"), sum("a\0"));
        assert_ne!(sum("abcdefgh12"), sum("abcdefgh21"));
        assert_eq!(sum("abcdefgh12"), sum("abcdefgh12"));
    }
}
