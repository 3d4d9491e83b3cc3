//! Publishing: a thread of its own lays the counters out in a shared file, while somebody looks.
//!
//! ```text
//! reader:     raise `watch`, wake           raise `watch`, wake   ...           goes away
//! publisher:  asleep ------> write, 100 ms, write, 100 ms, ...    2 s without a raise -> asleep
//! ```
//!
//! The publisher sleeps in the kernel on `watch` (a futex in the file): a program at which nobody
//! looks does nothing for it, and an idle program shows its counters all the same. It is a raw
//! pthread like the purger, and never allocates.
//!
//! A file is made new, readable by its owner only, with all its bytes allocated, and removed when
//! the process exits. A child of `fork` has no publisher; it may start its own.
//!
//! What is in the file says `live_layout`; who reads it is `live_reader`.

use crate::census::Census;
use crate::classes::class_of;
use crate::fatal::Line;
use crate::heatmap::map_pool;
use crate::live_layout::{GRID, LEN, Live, class_words, pack, stat_words};
use crate::template::{self, Known};
use crate::{clock, config, futex, purge, purger, shared, stats, watch};
use alloc_core::{ArenaView, OsPages, PAGE_SIZE, PageSource, SizeClass};
use core::ffi::{CStr, c_char};
use core::mem::MaybeUninit;
use core::ptr::null_mut;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicPtr, AtomicU64};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Milliseconds between two frames.
const EVERY_MS: u64 = 100;

/// Milliseconds after which a reader that did not raise `watch` is gone.
const GONE_MS: u64 = 2_000;

/// The mapped file, once it is one.
static FILE: AtomicPtr<Live> = AtomicPtr::new(null_mut());

/// The process that publishes; 0 = none yet.
static PUBLISHER: AtomicU64 = AtomicU64::new(0);

/// The file's name, for its removal; never unmapped.
static NAME: AtomicPtr<c_char> = AtomicPtr::new(null_mut());

/// Longest path, with the zero byte at its end.
const LONGEST: usize = PAGE_SIZE;

/// Publishes the counters of this process in the file `path`, for `poolalloc-top`.
///
/// `%p` stands for the process, `%t` for the time in seconds, `%e` for the program, `%%` for `%`;
/// `1` for the default: `poolalloc-%p` in `XDG_RUNTIME_DIR`, or in `/dev/shm` where there is none.
/// The same as `POOLALLOC_STATS_FILE`. Takes 80 KiB and a thread, which sleeps while nobody looks;
/// while somebody does, it walks all pools ten times a second. An existing file of that name is
/// replaced. The file is removed when the process exits.
///
/// # Errors
///
/// What the system says about the file or the thread; `AlreadyExists` if this process publishes already, or
/// if something that is neither a file nor a link has this name.
///
/// ```
/// let path = std::env::temp_dir().join("poolalloc-doc-%p");
/// alloc_global::publish_stats(&path)?;
/// assert!(alloc_global::publish_stats(&path).is_err(), "once per process");
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn publish_stats(path: impl AsRef<Path>) -> io::Result<()> {
    start(path.as_ref().as_os_str().as_bytes())
}

/// Publishes if the environment asks for it. One line on standard error where that fails.
pub(crate) fn start_from_environment() {
    let path = config::STATS_FILE.get();
    if path.is_empty() {
        return;
    }
    if let Err(error) = start(path) {
        // Never negative, and none where the path is too long.
        let code = error.raw_os_error().unwrap_or(0).unsigned_abs() as usize;
        config::clean(Line::new().text("cannot publish statistics in "), path)
            .text(", error ")
            .number(code)
            .write();
    }
}

fn start(pattern: &[u8]) -> io::Result<()> {
    let process = u64::from(std::process::id());
    let before = PUBLISHER.load(Relaxed);
    // Relaxed: only decides who does it. A child of fork finds its parent's number.
    let claimed =
        before != process && PUBLISHER.compare_exchange(before, process, Relaxed, Relaxed).is_ok();
    if !claimed {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    start_as(pattern, process).inspect_err(|_| PUBLISHER.store(0, Relaxed))
}

fn start_as(pattern: &[u8], process: u64) -> io::Result<()> {
    let page = OsPages.map(PAGE_SIZE, PAGE_SIZE).ok_or(io::ErrorKind::OutOfMemory)?;
    // SAFETY: a fresh page of zero bytes; it is never unmapped while the slice, or the name in it, is used.
    let buffer = unsafe { core::slice::from_raw_parts_mut(page.as_ptr(), LONGEST) };
    let result = expand(pattern, process, buffer).ok_or(io::ErrorKind::InvalidInput.into());
    let result = result.and_then(|name| {
        let live = make_file(name)?;
        live.begin_file(process);
        // The frame that a reader finds who comes later is old, but whole.
        publish(live);
        Ok(live)
    });
    match result {
        Ok(live) => {
            // Release, twice: pair with the Acquire in `run` and `remove`.
            FILE.store(core::ptr::from_ref(live).cast_mut(), Release);
            NAME.store(page.as_ptr().cast(), Release);
            // SAFETY: the function has the signature; where it cannot be registered the file stays behind.
            unsafe { libc::atexit(remove) };
            if purger::spawn_raw(run, purger::STACK) {
                Ok(())
            } else {
                let error = io::Error::last_os_error();
                // SAFETY: a name that ends with a zero byte; never unmapped from here on.
                unsafe { libc::unlink(page.as_ptr().cast()) };
                Err(error)
            }
        }
        Err(error) => {
            // SAFETY: mapped above; nothing points to it any more.
            unsafe { OsPages.unmap(page, PAGE_SIZE) };
            Err(error)
        }
    }
}

/// Puts the path together; `None` if it is empty, too long, or holds a zero byte.
fn expand<'a>(pattern: &[u8], process: u64, out: &'a mut [u8]) -> Option<&'a CStr> {
    let mut len = 0usize;
    let mut push = |bytes: &[u8]| {
        // The last byte stays zero.
        let end = len.checked_add(bytes.len()).filter(|end| *end < out.len())?;
        out.get_mut(len..end)?.copy_from_slice(bytes);
        len = end;
        Some(())
    };
    let mut file = [0; LONGEST];
    let known = Known { process, seconds: seconds(), program: program(&mut file) };
    let template = if pattern == b"1" {
        push(runtime_folder())?;
        b"/poolalloc-%p"
    } else {
        pattern
    };
    template::expand(template, known, push)?;
    // The byte after the path is still zero.
    CStr::from_bytes_with_nul(out.get(..=len)?).ok().filter(|name| !name.is_empty())
}

/// The last part of the path of the program's file, without allocating.
fn program(buffer: &mut [u8; LONGEST]) -> &[u8] {
    // SAFETY: a string that ends, and a buffer of this length.
    let len = unsafe {
        libc::readlink(c"/proc/self/exe".as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
    };
    // -1 where there is no such file.
    let path = buffer.get(..usize::try_from(len).unwrap_or(0)).unwrap_or_default();
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    if name.is_empty() { b"program" } else { name }
}

fn seconds() -> u64 {
    // SAFETY: always callable with null.
    unsafe { libc::time(null_mut()) }.unsigned_abs()
}

/// The folder of default files.
fn runtime_folder() -> &'static [u8] {
    // SAFETY: a string that ends; the environment is not changed while the process starts.
    let folder = unsafe { libc::getenv(c"XDG_RUNTIME_DIR".as_ptr()) };
    if folder.is_null() {
        return b"/dev/shm";
    }
    // SAFETY: a string of the environment, which ends.
    let folder = unsafe { CStr::from_ptr(folder) };
    // SAFETY: a string that ends.
    let usable = unsafe { libc::access(folder.as_ptr(), libc::W_OK | libc::X_OK) } == 0;
    if usable { folder.to_bytes() } else { b"/dev/shm" }
}

/// Makes the file, all of it allocated: a disk that fills up later must not end the program.
fn make_file(name: &CStr) -> io::Result<&'static Live> {
    // Made new, so that nobody else has it open and no link is followed. A device or a pipe stays:
    // it is nothing of ours.
    if may_replace(name) {
        // SAFETY: a string that ends.
        unsafe { libc::unlink(name.as_ptr()) };
    }
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    // SAFETY: a string that ends.
    let file = unsafe { libc::open(name.as_ptr(), flags, 0o600) };
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    let mapped = map(file);
    // SAFETY: opened above; a mapping lasts without it.
    unsafe { libc::close(file) };
    mapped.inspect_err(|_| {
        // SAFETY: a string that ends.
        unsafe { libc::unlink(name.as_ptr()) };
    })
}

/// Whether there is a file, or a link, of this name.
fn may_replace(name: &CStr) -> bool {
    let mut found = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: a string that ends, and a place for the answer.
    if unsafe { libc::lstat(name.as_ptr(), found.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: written above.
    let mode = unsafe { found.assume_init_ref() }.st_mode;
    matches!(mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFLNK)
}

fn map(file: i32) -> io::Result<&'static Live> {
    let len = libc::off_t::try_from(LEN).unwrap_or(libc::off_t::MAX);
    // SAFETY: an open file.
    let answer = unsafe { libc::posix_fallocate(file, 0, len) };
    if answer != 0 {
        return Err(io::Error::from_raw_os_error(answer));
    }
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping of an open file.
    let start = unsafe { libc::mmap(null_mut(), LEN, access, libc::MAP_SHARED, file, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `LEN` bytes, aligned to a page, never unmapped; all fields are atomics, for which any
    // bytes will do.
    Ok(unsafe { &*start.cast::<Live>() })
}

/// The publisher.
extern "C" fn run(_: *mut libc::c_void) -> *mut libc::c_void {
    purger::block_signals();
    // Acquire: pairs with the Release in `start_as`.
    let live = FILE.load(Acquire);
    // SAFETY: set before this thread was made, and never unmapped.
    let live = unsafe { &*live };
    // What a new file holds: a reader may have raised it before this thread ran.
    let mut seen = 0;
    loop {
        futex::wait_shared(&live.watch, seen);
        let mut raised_at = clock::milliseconds();
        while clock::milliseconds().saturating_sub(raised_at) < GONE_MS {
            // Relaxed: only its change matters.
            let now = live.watch.load(Relaxed);
            if now != seen {
                seen = now;
                raised_at = clock::milliseconds();
            }
            publish(live);
            purger::sleep(EVERY_MS);
        }
    }
}

/// Writes one frame. Allocates nothing.
fn publish(live: &Live) {
    let stats = stats();
    let census = Census::take();
    live.write(|live| {
        // Relaxed everywhere: `write` orders them.
        live.updated.store(clock::milliseconds(), Relaxed);
        for (to, from) in live.stats.iter().zip(stat_words(&stats)) {
            to.store(from, Relaxed);
        }
        let settings = [
            config::purge_delay_ms(),
            config::fallback_cache() as u64,
            config::huge_from() as u64,
            watch::rate(),
        ];
        for (to, from) in live.settings.iter().zip(settings) {
            to.store(from, Relaxed);
        }
        for (words, class) in live.classes.iter().zip(SizeClass::all()) {
            for (to, from) in words.iter().zip(class_words(&class_of(&census, class))) {
                to.store(from, Relaxed);
            }
        }
        publish_grid(live);
    });
}

fn publish_grid(live: &Live) {
    let now = purge::now();
    let mut arenas = 0;
    shared::with_all_locked(|all| {
        let see = |view: ArenaView| {
            if let Some(words) = live.grid.get(arenas).filter(|_| arenas < GRID) {
                let mut symbols = [0u8; 64];
                for (to, pool) in symbols.iter_mut().zip(view.pools()) {
                    // All of them are ASCII: the cast keeps them.
                    *to = map_pool(&view, pool, now).symbol() as u8;
                }
                let (eights, _) = symbols.as_chunks::<8>();
                let start = view.base().addr().get() as u64;
                let all = core::iter::once(start).chain(eights.iter().map(|eight| pack(*eight)));
                for (to, from) in words.iter().zip(all) {
                    to.store(from, Relaxed);
                }
            }
            arenas += 1;
        };
        // SAFETY: all locks are held: pools are in bins that nobody uses, or have no class.
        unsafe { all.for_each_arena_view(see) };
    });
    live.arenas.store(arenas as u64, Relaxed);
}

/// Runs when the process exits.
extern "C" fn remove() {
    // Acquire: pairs with the Release in `start_as`.
    let name = NAME.load(Acquire);
    // Relaxed: a number. A child of fork leaves its parent's file alone.
    if !name.is_null() && PUBLISHER.load(Relaxed) == u64::from(std::process::id()) {
        // SAFETY: a string that ends, in a page that is never unmapped.
        unsafe { libc::unlink(name) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(pattern: &[u8]) -> Option<String> {
        let mut buffer = [0; 64];
        expand(pattern, 1234, &mut buffer).map(|name| name.to_str().unwrap().to_owned())
    }

    #[test]
    fn paths_are_put_together() {
        assert_eq!(expanded(b"/a/%p.stats"), Some("/a/1234.stats".into()));
        assert_eq!(expanded(b"%p%p"), Some("12341234".into()));
        assert_eq!(expanded(b"100%"), Some("100%".into()));
        assert_eq!(expanded(b"%x%%p"), Some("%x%p".into()), "as reports have it");
        let time = expanded(b"/a/%t").unwrap();
        assert!(time["/a/".len()..].parse::<u64>().unwrap() > 1_600_000_000, "{time}");
        let program = std::env::current_exe().unwrap();
        let name = program.file_name().unwrap().to_str().unwrap();
        assert!(name.len() > 16, "longer than a thread's name can be");
        let mut buffer = [0; 512];
        let path = expand(b"/a/%e", 1, &mut buffer).unwrap();
        assert_eq!(path.to_str().unwrap(), format!("/a/{name}"));
        assert!(expanded(b"1").unwrap().ends_with("/poolalloc-1234"));
        assert_eq!((expanded(b""), expanded(b"a\0b")), (None, None));
        assert_eq!(
            (expanded(&[b'x'; 63]).map(|path| path.len()), expanded(&[b'x'; 64])),
            (Some(63), None)
        );
    }

    #[test]
    fn a_file_that_cannot_be_made_is_an_error() {
        let error = make_file(c"/nowhere/at/all").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let full = make_file(c"/dev/full/x").unwrap_err();
        assert_eq!(full.raw_os_error(), Some(libc::ENOTDIR));
    }

    #[test]
    fn a_file_is_replaced_and_what_is_none_stays() {
        use std::os::unix::fs::FileTypeExt;
        let folder = std::env::temp_dir().join(format!("poolalloc-live-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let (file, pipe) = (folder.join("file"), folder.join("pipe"));
        let name = |path: &Path| std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        std::fs::write(&file, "old").unwrap();
        make_file(&name(&file)).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().len(), LEN as u64);
        // SAFETY: a string that ends.
        assert_eq!(unsafe { libc::mkfifo(name(&pipe).as_ptr(), 0o600) }, 0);
        for path in [&pipe, &folder] {
            let error = make_file(&name(path)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{}", path.display());
        }
        assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
