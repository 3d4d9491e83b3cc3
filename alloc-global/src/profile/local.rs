//! What a thread knows of itself while it is watched: its name, its region, whether it is to be left out.
//!
//! Plain thread-local words: constant-initialised, without a destructor, so they can be used before
//! `main`, in destructors of other thread-locals, and after them.

use super::names::Names;
use super::stack::Bounds;
#[cfg(target_os = "linux")]
use alloc_core::keeping_errno;
use core::cell::Cell;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU32, Ordering};

/// The state of one thread.
pub(crate) struct Local {
    /// Above 0: nothing that this thread does is recorded.
    untracked: Cell<u32>,
    /// The number of the region's name.
    region: Cell<u16>,
    /// The number of the thread's name; meaningful once `token` is set.
    thread: Cell<u16>,
    /// Unlike that of any other thread; 0 until the first event.
    token: Cell<u32>,
    /// The lane that is this thread's alone; 0 where it has none.
    lane: Cell<u8>,
    /// Whether the thread gave its lane back.
    left: Cell<bool>,
    /// The address of the block that it allocated last, of those that are all recorded; 0 once that
    /// block is freed.
    last: Cell<usize>,
    /// Where its stack lies.
    pub(crate) bounds: Cell<Bounds>,
}

thread_local! {
    static LOCAL: Local = const {
        Local {
            untracked: Cell::new(0),
            region: Cell::new(0),
            thread: Cell::new(0),
            token: Cell::new(0),
            lane: Cell::new(0),
            left: Cell::new(false),
            last: Cell::new(0),
            bounds: Cell::new(Bounds::UNKNOWN),
        }
    };
}

/// Names of regions and threads.
pub(crate) static NAMES: Names = Names::new();

/// Tokens given to threads.
static TOKENS: AtomicU32 = AtomicU32::new(0);

/// Which lanes are some thread's, a bit for each. Lane 0 is everybody's, and what is recorded there
/// takes its time.
///
/// A thread whose end is not seen keeps its lane for good: the more of those, the more threads have lane 0.
///
/// Each lane in which threads of one name meet a site costs a record, so there are not many.
static LANES: AtomicU32 = AtomicU32::new(1);

/// Lanes, with lane 0.
const LANE_COUNT: u32 = 16;

/// A lane that nobody else has until it is given back, or 0.
fn take_lane() -> u8 {
    let free = |taken: u32| {
        let bit = taken.trailing_ones();
        (bit < LANE_COUNT).then_some(taken | 1 << bit)
    };
    // Acquire: pairs with the Release in `give_lane`: the counts that its last thread wrote are
    // there. Relaxed on failure: nothing is read.
    match LANES.fetch_update(Ordering::Acquire, Ordering::Relaxed, free) {
        Ok(before) => before.trailing_ones() as u8,
        Err(_) => 0,
    }
}

fn give_lane(lane: u8) {
    if lane != 0 {
        // Release: pairs with the Acquire in `take_lane`.
        LANES.fetch_and(!(1 << lane), Ordering::Release);
    }
}

/// The calling thread ends: its lane is another's now, and what it still does goes to lane 0.
pub(crate) fn leave() {
    with(|local| {
        local.left.set(true);
        give_lane(local.lane.replace(0));
    });
}

/// In a child of fork: no other thread has a lane.
pub(crate) fn adopt_after_fork() {
    // Relaxed: there is no other thread.
    with(|local| LANES.store(1 | 1 << local.lane.get(), Ordering::Relaxed));
}

/// Calls `f` with this thread's state.
#[inline]
pub(crate) fn with<R>(f: impl FnOnce(&Local) -> R) -> R {
    LOCAL.with(f)
}

impl Local {
    /// Whether events of this thread are to be left out.
    #[inline]
    pub(crate) fn is_untracked(&self) -> bool {
        self.untracked.get() > 0
    }

    /// Runs `f` while events of this thread are left out, also where it unwinds.
    pub(crate) fn untracked<R>(&self, f: impl FnOnce() -> R) -> R {
        struct Leave<'a>(&'a Cell<u32>);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get().saturating_sub(1));
            }
        }
        self.untracked.set(self.untracked.get().saturating_add(1));
        let _leave = Leave(&self.untracked);
        f()
    }

    /// The numbers of the names of region and thread.
    #[inline]
    pub(crate) fn names(&self) -> (u16, u16) {
        if self.token.get() == 0 {
            self.introduce();
        }
        (self.region.get(), self.thread.get())
    }

    /// The lane of this thread, once it has a name.
    #[inline]
    pub(crate) fn lane(&self) -> u8 {
        self.lane.get()
    }

    /// Notes the block that was allocated last.
    #[inline]
    pub(crate) fn note_last(&self, address: usize) {
        self.last.set(address);
    }

    /// Whether a block that is freed is the one that was allocated last. Only the first time: then
    /// it is none.
    #[inline]
    pub(crate) fn take_last(&self, address: usize) -> bool {
        let is_last = self.last.get() == address;
        if is_last {
            self.last.set(0);
        }
        is_last
    }

    #[cold]
    fn introduce(&self) {
        // Relaxed: only has to be distinct. Wraps onto a used one after 2^32 threads.
        let token = TOKENS.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1);
        self.token.set(token);
        if !self.left.get() {
            self.lane.set(take_lane());
        }
        self.untracked(|| self.thread.set(thread_name(token)));
    }
}

/// Threads without a name of their own that are told apart; later ones share one name.
const NUMBERED: u32 = 256;

/// The name of the calling thread: "main" for the first, the system's name for one that was given a
/// name, a number for one that was not.
fn thread_name(token: u32) -> u16 {
    let mut name = [0u8; 16];
    #[cfg(target_os = "linux")]
    {
        // SAFETY: always callable.
        let process = unsafe { libc::getpid() };
        // SAFETY: always callable.
        let thread = unsafe { libc::syscall(libc::SYS_gettid) };
        if thread == i64::from(process) {
            return NAMES.intern(b"main");
        }
        // SAFETY: writes at most 16 bytes, the last of them zero.
        unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
        if name != main_name() {
            return NAMES.intern(until_zero(&name));
        }
    }
    if token > NUMBERED {
        return NAMES.intern(b"thread (unnamed)");
    }
    let digits = [token / 100, token / 10 % 10, token % 10].map(|digit| b'0' + (digit % 10) as u8);
    let skip = digits.iter().take(2).take_while(|digit| **digit == b'0').count();
    name = *b"thread 0........";
    let digits = digits.get(skip..).unwrap_or_default();
    for (to, from) in name.iter_mut().skip(7).zip(digits) {
        *to = *from;
    }
    NAMES.intern(name.get(..7 + digits.len()).unwrap_or_default())
}

fn until_zero(name: &[u8]) -> &[u8] {
    name.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// What the system calls the first thread, whose name others inherit. Read without allocating.
#[cfg(target_os = "linux")]
fn main_name() -> [u8; 16] {
    let mut name = [0u8; 16];
    keeping_errno(|| {
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        // SAFETY: the path is a string that a zero byte ends.
        let file = unsafe { libc::open(c"/proc/self/comm".as_ptr(), flags) };
        if file >= 0 {
            // SAFETY: writes at most 16 bytes.
            unsafe { libc::read(file, name.as_mut_ptr().cast(), name.len()) };
            // SAFETY: opened above.
            unsafe { libc::close(file) };
        }
    });
    name.map(|byte| if byte == b'\n' { 0 } else { byte })
}

/// A named part of a program: while it lives, what its thread allocates is attributed to it.
///
/// Regions nest; the innermost counts. Guards are to be dropped in the reverse order of their
/// making, as scopes do. Up to 896 names of regions and threads are kept, each cut to 63 bytes;
/// where there is no room for another, the region has no name. Costs a look-up under a lock on
/// entry (some 100 instructions), and a store at the end.
///
/// ```
/// let _region = alloc_global::Region::enter("parse");
/// let words: Vec<&str> = "a b c".split(' ').collect();
/// # drop(words);
/// ```
#[must_use = "the region ends when this is dropped"]
#[derive(Debug)]
pub struct Region {
    before: u16,
    /// Belongs to its thread.
    _not_send: PhantomData<*const ()>,
}

impl Region {
    /// Enters a region, until the guard is dropped.
    pub fn enter(name: &str) -> Region {
        let number = NAMES.intern(name.as_bytes());
        let before = with(|local| local.region.replace(number));
        Region { before, _not_send: PhantomData }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        with(|local| local.region.set(self.before));
    }
}

/// Runs `f`, and records nothing of what the calling thread allocates meanwhile; what it frees is
/// still recorded as freed. For tools, and for caches that would only be noise in a profile.
///
/// ```
/// let table = alloc_global::untracked(|| vec![0u8; 1 << 20]);
/// # drop(table);
/// ```
pub fn untracked<R>(f: impl FnOnce() -> R) -> R {
    with(|local| local.untracked(f))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_nest_and_end() {
        let name = || NAMES.get(with(|local| local.names().0));
        assert_eq!(name(), "");
        let outer = Region::enter("outer");
        {
            let _inner = Region::enter("inner");
            assert_eq!(name(), "inner");
        }
        assert_eq!(name(), "outer");
        drop(outer);
        assert_eq!(name(), "");
    }

    #[test]
    fn untracked_ends_also_by_a_panic() {
        let is = || with(Local::is_untracked);
        assert!(!is());
        untracked(|| assert!(is() && untracked(is)));
        let caught = std::panic::catch_unwind(|| untracked(|| panic!("as planned")));
        assert!(caught.is_err() && !is());
    }

    #[test]
    fn threads_have_their_names_or_numbers() {
        let look = || with(|local| NAMES.get(local.names().1));
        let named = std::thread::Builder::new().name("reader".into());
        let name = named.spawn(look).unwrap().join().unwrap();
        assert_eq!(name, "reader");
        let name = std::thread::spawn(look).join().unwrap();
        // The test runner names its threads, and its name is inherited: either is right here.
        assert!(!name.is_empty());
    }

    #[test]
    fn no_two_threads_have_one_lane_but_the_first() {
        let barrier = std::sync::Barrier::new(40);
        let lanes = std::thread::scope(|scope| {
            let look = || {
                let lane = with(|local| (local.names(), local.lane()).1);
                barrier.wait();
                leave();
                assert_eq!(with(|local| (local.names(), local.lane()).1), 0);
                lane
            };
            let threads: Vec<_> = (0..40).map(|_| scope.spawn(look)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        let mut own: Vec<u8> = lanes.into_iter().filter(|lane| *lane != 0).collect();
        own.sort_unstable();
        let count = own.len();
        own.dedup();
        assert_eq!(own.len(), count);
        // Other tests have some.
        assert!(own.iter().all(|lane| u32::from(*lane) < LANE_COUNT));
    }

    #[test]
    fn the_last_block_is_the_last_once() {
        with(|local| {
            local.note_last(64);
            assert!(!local.take_last(32) && local.take_last(64) && !local.take_last(64));
        });
    }
}
