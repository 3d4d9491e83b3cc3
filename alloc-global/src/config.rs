//! Settings from the environment: read once, before the first cache is made, without allocating.
//!
//! | variable | values | default |
//! |---|---|---|
//! | `POOLALLOC_FALLBACK_CACHE` | bytes a thread may cache of blocks above 1 KiB, beside its arrays, and glibc keep in its heap; `0`: of none of the fallback's | `128m` |
//! | `POOLALLOC_PURGE_DELAY_MS` | milliseconds that free memory is kept; 0 = none; `never` | `500` |
//! | `POOLALLOC_HUGE_PAGES` | `always`, or bytes in use from which on they are asked for; `never`, as `off` | `4m` |
//! | `POOLALLOC_PURGER` | `1`: a background thread gives memory back while the program is idle | `0` |
//! | `POOLALLOC_SAMPLE` | mean bytes between two samples of the profile | `off` |
//! | `POOLALLOC_TRACE` | frames of each stack, to 58, the allocator's own not counted: every block is recorded | `off` |
//! | `POOLALLOC_SEED` | a number: samples repeat from run to run | differs |
//! | `POOLALLOC_REPORT` | `1`: a report on standard error when the program ends; or a path: `.txt`, `.json`, `.html` | none |
//! | `POOLALLOC_PROFILE` | a path: `.pb.gz`, `.dhat.json`, `.folded`; turns sampling on | none |
//! | `POOLALLOC_SIGNAL` | `USR1`, `USR2`, `HUP`: on this signal the report and the profile are written | none |
//! | `POOLALLOC_STATS_FILE` | a path, or `1` for the default one: counters for `poolalloc-top` | none |
//! | `POOLALLOC_UPDATE_BASELINE` | `1`: `assert_baseline!` writes its files anew | `0` |
//!
//! In paths `%p` stands for the process, `%t` for the time in seconds, `%e` for the program, `%%` for `%`.
//!
//! `0` and `off` switch off whatever can be switched: all but the delay and the seed. A file of
//! that name is `./0`. Bytes and counts may end in `k`, `m` or `g`. A variable that starts with
//! `POOLALLOC_` and is not listed, and a value that cannot be read, are named once on standard
//! error and ignored. A program that runs with more rights than its caller (setuid) ignores them
//! all.
//!
//! Where the user set thresholds of glibc's `malloc` (`MALLOC_TRIM_THRESHOLD_` and its like,
//! `GLIBC_TUNABLES`), they hold.
//!
//! It does not watch for changes: a program that sets variables in itself does so too late.

use crate::fatal::Line;
use crate::profile::MOST_ASKED;
use crate::watch;
use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize};

/// Value of the purge delay that stands for `never`.
pub(crate) const NEVER: u64 = u64::MAX;

// Relaxed everywhere: each is a value of its own; nobody infers anything from having seen it.
static FALLBACK_CACHE: AtomicUsize = AtomicUsize::new(128 << 20);
static PURGE_DELAY_MS: AtomicU64 = AtomicU64::new(500);
static HUGE_FROM: AtomicUsize = AtomicUsize::new(4 << 20);
static PURGER: AtomicBool = AtomicBool::new(false);
static SAMPLE: AtomicU64 = AtomicU64::new(0);
static TRACE: AtomicUsize = AtomicUsize::new(0);
static SIGNAL: AtomicI32 = AtomicI32::new(0);
static GLIBC_SET: AtomicBool = AtomicBool::new(false);

/// Where the report goes; `1` for standard error; empty for none.
pub(crate) static REPORT: Text = Text::new();
/// Where the profile goes; empty for none.
pub(crate) static PROFILE: Text = Text::new();
/// Where counters are laid out for others to read; empty for none.
pub(crate) static STATS_FILE: Text = Text::new();

/// Mean bytes between two samples where a profile was asked for and no distance was: as in Go and jemalloc.
const SAMPLE_DEFAULT: u64 = 512 << 10;

/// Longest value kept of a setting that is text.
pub(crate) const LONGEST: usize = 1024;

/// A setting that is text: written once, when the environment is read or by the program.
///
/// Invariant: `bytes[..len]` are not written any more once `len` is not 0.
pub(crate) struct Text {
    bytes: UnsafeCell<[u8; LONGEST]>,
    len: AtomicUsize,
    claimed: AtomicBool,
}

// SAFETY: written by the one call that claimed it, before `len` says that there is anything.
unsafe impl Sync for Text {}

impl Text {
    const fn new() -> Text {
        let claimed = AtomicBool::new(false);
        Text { bytes: UnsafeCell::new([0; LONGEST]), len: AtomicUsize::new(0), claimed }
    }

    /// Keeps a value; whether it is there now: not if it is empty, too long, or not the first.
    pub(crate) fn set(&self, value: &[u8]) -> bool {
        // Relaxed: only decides who writes.
        if value.is_empty() || value.len() > LONGEST || self.claimed.swap(true, Relaxed) {
            return false;
        }
        // SAFETY: nobody reads while `len` is 0, and only who claimed it writes.
        let bytes = unsafe { &mut *self.bytes.get() };
        bytes.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
        // Release: pairs with the Acquire in `get`.
        self.len.store(value.len(), Release);
        true
    }

    /// The value, or nothing.
    pub(crate) fn get(&self) -> &[u8] {
        // Acquire: pairs with the Release in `set`.
        let len = self.len.load(Acquire);
        if len == 0 {
            return &[];
        }
        // SAFETY: not written any more.
        let bytes = unsafe { &*self.bytes.get() };
        bytes.get(..len).unwrap_or_default()
    }
}

/// Makes samples repeat from run to run, as far as the program does: for threads that have not
/// drawn one yet. The same as `POOLALLOC_SEED`.
///
/// ```
/// alloc_global::seed_samples(7);
/// alloc_global::start_sampling(512 << 10);
/// # alloc_global::stop_profiling();
/// ```
pub fn seed_samples(seed: u64) {
    watch::set_seed(seed);
}

/// Bytes of the fallback's blocks that a thread may cache.
#[inline]
pub(crate) fn fallback_cache() -> usize {
    FALLBACK_CACHE.load(Relaxed)
}

/// Milliseconds that free memory is kept.
#[inline]
pub(crate) fn purge_delay_ms() -> u64 {
    PURGE_DELAY_MS.load(Relaxed)
}

/// Bytes of address space from which on huge pages are asked for.
pub(crate) fn huge_from() -> usize {
    HUGE_FROM.load(Relaxed)
}

/// Whether the background thread was asked for.
pub(crate) fn purger() -> bool {
    PURGER.load(Relaxed)
}

/// Whether the user set thresholds of glibc's `malloc`: it is left alone then.
#[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
pub(crate) fn is_glibc_set() -> bool {
    GLIBC_SET.load(Relaxed)
}

/// What threads record from the start: mean bytes between two samples, 1 for every block, 0 for nothing.
pub(crate) fn first_rate() -> u64 {
    match (TRACE.load(Relaxed), SAMPLE.load(Relaxed)) {
        (0, 0) if !PROFILE.get().is_empty() => SAMPLE_DEFAULT,
        (0, rate) if rate == OFF => 0,
        (0, rate) => rate,
        _ => 1,
    }
}

/// Frames of each stack where every block is to be recorded; 0 = not asked for.
pub(crate) fn trace_frames() -> usize {
    TRACE.load(Relaxed)
}

/// The signal on which a report is wanted; 0 = none.
#[cfg(feature = "report")]
pub(crate) fn signal() -> i32 {
    SIGNAL.load(Relaxed)
}

/// Stands for sampling that was switched off by name, even where a profile was asked for.
const OFF: u64 = u64::MAX;

const PREFIX: &[u8] = b"POOLALLOC_";

unsafe extern "C" {
    /// The environment, as POSIX has it.
    static environ: *const *const c_char;
}

/// Reads the environment. Called once, when the first thread gets its cache.
#[cold]
pub(crate) fn read_environment() {
    #[cfg(target_os = "linux")]
    // SAFETY: always callable.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        return;
    }
    // SAFETY: set by the system's start code, before any code of this program runs.
    let mut at = unsafe { environ };
    while !at.is_null() {
        // SAFETY: `environ` is an array of strings that a null ends.
        let entry = unsafe { at.read() };
        if entry.is_null() {
            return;
        }
        // SAFETY: an entry of the environment is a string that a zero byte ends.
        let entry = unsafe { CStr::from_ptr(entry) }.to_bytes();
        if entry.starts_with(PREFIX) {
            read_entry(entry);
        } else if sets_glibc(entry) {
            GLIBC_SET.store(true, Relaxed);
        }
        // SAFETY: not past the null at the end.
        at = unsafe { at.add(1) };
    }
}

fn read_entry(entry: &[u8]) {
    if let Some(line) = refusal(entry) {
        line.write();
    }
}

/// Whether an entry of the environment sets one of the thresholds that
/// [`glibc_heap`](crate::glibc_heap) would set.
fn sets_glibc(entry: &[u8]) -> bool {
    const VARIABLES: [&[u8]; 4] = [
        b"MALLOC_TRIM_THRESHOLD_=",
        b"MALLOC_MMAP_THRESHOLD_=",
        b"MALLOC_TOP_PAD_=",
        b"MALLOC_MMAP_MAX_=",
    ];
    const TUNABLES: [&[u8]; 4] = [
        b"glibc.malloc.trim_threshold=",
        b"glibc.malloc.mmap_threshold=",
        b"glibc.malloc.top_pad=",
        b"glibc.malloc.mmap_max=",
    ];
    let begins = |text: &[u8], names: &[&[u8]]| names.iter().any(|name| text.starts_with(name));
    let tunables = entry.strip_prefix(b"GLIBC_TUNABLES=").unwrap_or_default();
    begins(entry, &VARIABLES)
        || tunables.split(|&byte| byte == b':').any(|tunable| begins(tunable, &TUNABLES))
}

/// Applies an entry of the environment; what there is to be said where that could not be done.
fn refusal(entry: &[u8]) -> Option<Line> {
    let split = entry.iter().position(|&byte| byte == b'=').unwrap_or(entry.len());
    let (name, value) = entry.split_at_checked(split).unwrap_or_default();
    let value = value.get(1..).unwrap_or_default();
    let line = match apply(name, value) {
        Answer::Taken => return None,
        Answer::Bad => clean(Line::new().text("bad value in "), entry).text(", ignored"),
        Answer::Unknown => clean(Line::new().text("unknown setting "), name).text(", ignored"),
        Answer::Absent => clean(Line::new(), name).text(
            " needs the feature report of alloc-global, which is not in this program, ignored",
        ),
    };
    let is_path = matches!(name.strip_prefix(PREFIX), Some(b"REPORT" | b"PROFILE"));
    let is_ending = is_path && !value.is_empty() && value.len() <= LONGEST;
    Some(if is_ending && cfg!(feature = "report") { line.text(": ").text(ENDINGS) } else { line })
}

/// Adds a text of the user's, which must not begin another line or command the terminal.
pub(crate) fn clean(line: Line, text: &[u8]) -> Line {
    let second = |at: usize| text.get(at).is_some_and(|byte| (0x80..0xA0).contains(byte));
    text.iter().enumerate().fold(line, |line, (at, &byte)| {
        // In UTF-8 the second set of controls is C2 and one of these.
        let is_pair = byte == 0xC2 && second(at + 1)
            || second(at) && at.checked_sub(1).and_then(|at| text.get(at)) == Some(&0xC2);
        let is_control = byte.is_ascii_control() || is_pair;
        line.raw(if is_control { b"?" } else { core::slice::from_ref(&byte) })
    })
}

/// Whether a value switches its setting off.
fn is_off(value: &[u8]) -> bool {
    matches!(value, b"0" | b"off")
}

#[cfg(feature = "report")]
const ENDINGS: &str = crate::report::Format::NONE;
#[cfg(not(feature = "report"))]
const ENDINGS: &str = "";

/// Keeps the path of a report or a profile, if its ending is that of a format.
fn set_path(setting: &Text, value: &[u8]) -> bool {
    #[cfg(feature = "report")]
    {
        use std::os::unix::ffi::OsStrExt;
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(value));
        if crate::report::Format::of(path).is_none() {
            return false;
        }
    }
    setting.set(value)
}

/// What became of a setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    Taken,
    /// Its value could not be read.
    Bad,
    /// There is none of that name.
    Unknown,
    /// What it sets is not in this program.
    Absent,
}

/// Applies a setting.
fn apply(name: &[u8], value: &[u8]) -> Answer {
    let known = name.strip_prefix(PREFIX).and_then(|name| apply_known(name, value));
    match known {
        Some(true) => Answer::Taken,
        Some(false) => Answer::Bad,
        None if matches!(name.strip_prefix(PREFIX), Some(b"SIGNAL" | b"REPORT" | b"PROFILE")) => {
            Answer::Absent
        }
        None => Answer::Unknown,
    }
}

/// Applies a setting: `None` if there is none of that name in this program, else whether its value
/// could be read.
fn apply_known(name: &[u8], value: &[u8]) -> Option<bool> {
    match name {
        b"FALLBACK_CACHE" => Some(store(&FALLBACK_CACHE, bytes(value))),
        b"PURGE_DELAY_MS" => {
            let delay = if value == b"never" { Some(NEVER) } else { number(value) };
            Some(delay.map(|delay| PURGE_DELAY_MS.store(delay, Relaxed)).is_some())
        }
        b"HUGE_PAGES" => Some(store(
            &HUGE_FROM,
            match value {
                b"0" | b"off" | b"never" => Some(usize::MAX),
                b"always" => Some(0),
                _ => bytes(value),
            },
        )),
        b"PURGER" => {
            PURGER.store(value == b"1", Relaxed);
            Some(value == b"1" || is_off(value))
        }
        b"SAMPLE" => {
            let rate = bytes(value).map(|rate| if rate == 0 { OFF } else { rate as u64 });
            Some(rate.map(|rate| SAMPLE.store(rate, Relaxed)).is_some())
        }
        b"TRACE" => {
            let frames = bytes(value);
            if frames.is_some_and(|frames| frames > MOST_ASKED) {
                Line::new()
                    .text("POOLALLOC_TRACE: at most ")
                    .number(MOST_ASKED)
                    .text(" frames")
                    .write();
            }
            Some(store(&TRACE, frames))
        }
        b"SEED" => Some(number(value).map(watch::set_seed).is_some()),
        b"SIGNAL" | b"REPORT" | b"PROFILE" if cfg!(not(feature = "report")) => {
            is_off(value).then_some(true)
        }
        b"SIGNAL" => {
            let signal = match value {
                b"USR1" => libc::SIGUSR1,
                b"USR2" => libc::SIGUSR2,
                b"HUP" => libc::SIGHUP,
                _ => return Some(is_off(value)),
            };
            SIGNAL.store(signal, Relaxed);
            Some(true)
        }
        b"REPORT" if value == b"1" => Some(REPORT.set(value)),
        b"REPORT" => Some(is_off(value) || set_path(&REPORT, value)),
        b"PROFILE" => Some(is_off(value) || set_path(&PROFILE, value)),
        b"STATS_FILE" => Some(is_off(value) || STATS_FILE.set(value)),
        // Read where it is used: by test macros.
        b"UPDATE_BASELINE" => Some(value == b"1" || is_off(value)),
        _ => None,
    }
}

fn store(setting: &AtomicUsize, value: Option<usize>) -> bool {
    value.map(|value| setting.store(value, Relaxed)).is_some()
}

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |sum, &byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        sum.checked_mul(10)?.checked_add(digit as u64)
    })
}

/// A number of bytes, perhaps with a suffix; 0 where it is off.
fn bytes(text: &[u8]) -> Option<usize> {
    if is_off(text) {
        return Some(0);
    }
    let (last, rest) = text.split_last()?;
    let (digits, unit) = match last.to_ascii_lowercase() {
        b'k' => (rest, 1 << 10),
        b'm' => (rest, 1 << 20),
        b'g' => (rest, 1 << 30),
        _ => (text, 1),
    };
    usize::try_from(number(digits)?).ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_kept_once_and_whole() {
        let text = Text::new();
        assert_eq!(text.get(), b"");
        assert!(!text.set(b"") && !text.set(&[b'x'; LONGEST + 1]));
        assert!(text.set(b"/tmp/a.json") && !text.set(b"/tmp/b.json"));
        assert_eq!(text.get(), b"/tmp/a.json");
    }

    #[test]
    fn bytes_take_suffixes_and_refuse_the_rest() {
        assert_eq!((bytes(b"0"), bytes(b"off")), (Some(0), Some(0)));
        assert_eq!(bytes(b"64k"), Some(65_536));
        assert_eq!(bytes(b"3M"), Some(3 << 20));
        assert_eq!(bytes(b"1g"), Some(1 << 30));
        for bad in [&b""[..], b"k", b"-1", b"1x", b"1.5m", b"99999999999999999999", b"99999999999g"]
        {
            assert_eq!(bytes(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn names_and_values_are_told_apart() {
        use Answer::{Absent, Bad, Taken, Unknown};
        assert_eq!(apply(b"POOLALLOC_PURGE_DELAY_MS", b"soon"), Bad);
        assert_eq!(apply(b"POOLALLOC_PURGER", b"yes"), Bad);
        assert_eq!(apply(b"POOLALLOC_SPEED", b"11"), Unknown);
        assert_eq!(apply(b"POOLALLOC_HUGE_PAGES", b"16m"), Taken);
        assert_eq!(apply(b"POOLALLOC_SAMPLE", b"often"), Bad);
        let bad_signal = if cfg!(feature = "report") { Bad } else { Absent };
        assert_eq!(apply(b"POOLALLOC_SIGNAL", b"KILL"), bad_signal);
        // To be without what is not there is no mistake.
        for name in [&b"POOLALLOC_SIGNAL"[..], b"POOLALLOC_REPORT", b"POOLALLOC_PROFILE"] {
            assert_eq!((apply(name, b"0"), apply(name, b"off")), (Taken, Taken));
        }
    }

    #[test]
    fn what_sets_glibcs_thresholds_is_known() {
        for entry in [
            "MALLOC_TRIM_THRESHOLD_=131072",
            "MALLOC_MMAP_THRESHOLD_=1",
            "MALLOC_TOP_PAD_=0",
            "MALLOC_MMAP_MAX_=0",
            "GLIBC_TUNABLES=glibc.malloc.trim_threshold=1",
            "GLIBC_TUNABLES=glibc.pthread.rseq=0:glibc.malloc.mmap_threshold=1",
        ] {
            assert!(sets_glibc(entry.as_bytes()), "{entry}");
        }
        for entry in [
            "MALLOC_ARENA_MAX=1",
            "MALLOC_TRIM_THRESHOLD=1",
            "MALLOC_=",
            "GLIBC_TUNABLES=glibc.pthread.rseq=0",
            "GLIBC_TUNABLES=glibc.malloc.arena_max=1:glibc.other.top_pad=1",
            "TUNABLES=glibc.malloc.top_pad=1",
            "",
        ] {
            assert!(!sets_glibc(entry.as_bytes()), "{entry}");
        }
    }

    #[test]
    fn what_is_refused_is_named_with_the_reason() {
        let said = |entry: &[u8]| refusal(entry).map(|line| line.said().to_owned());
        assert_eq!(said(b"POOLALLOC_HUGE_PAGES=16m"), None);
        assert_eq!(
            said(b"POOLALLOC_SPEED=11").as_deref(),
            Some("poolalloc: unknown setting POOLALLOC_SPEED, ignored")
        );
        let line = said(b"POOLALLOC_REPORT=a.doc").unwrap();
        match cfg!(feature = "report") {
            true => assert!(
                line.starts_with("poolalloc: bad value in POOLALLOC_REPORT=a.doc, ignored: ")
            ),
            false => assert_eq!(
                line,
                "poolalloc: POOLALLOC_REPORT needs the feature report of alloc-global, which is not in this program, ignored"
            ),
        }
    }
}
