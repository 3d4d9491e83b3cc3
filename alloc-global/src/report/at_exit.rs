//! Reports that the environment or the program asks for: when the process ends, and on a signal.
//!
//! ```text
//! POOLALLOC_REPORT, POOLALLOC_PROFILE   atexit: return from main, process::exit; not abort, _exit, a fatal signal
//! POOLALLOC_SIGNAL                      handler: sem_post -> a thread of our own: sem_wait, write
//! ```
//!
//! A child of `fork` writes its own where the path has its number in it (`%p`), and none where it
//! would overwrite its parent's. A panic on the way is one line, and the program ends as it would
//! have.

use super::model::Report;
use super::write::{Format, write_or_say};
use crate::fatal::Line;
use crate::{DebugInfo, config, latency, purger, template, time_line};
use alloc_core::keeping_errno;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::null_mut;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicI32};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// The process that said first that it wants reports.
static PROCESS: AtomicI32 = AtomicI32::new(0);

/// Bytes of stack for the thread that writes reports: reading debug information takes some.
const STACK: usize = 4 << 20;

/// Counts signals that came. Only ever used through the system's calls.
struct Semaphore(UnsafeCell<MaybeUninit<libc::sem_t>>);

// SAFETY: the system's semaphores are for many threads.
unsafe impl Sync for Semaphore {}

static CAME: Semaphore = Semaphore(UnsafeCell::new(MaybeUninit::uninit()));

impl Semaphore {
    fn get(&self) -> *mut libc::sem_t {
        self.0.get().cast()
    }
}

/// Sees to what the environment asks for. Called once, when the first thread gets its cache;
/// allocates nothing from us.
pub(crate) fn start_from_environment() {
    if config::REPORT.get().is_empty() && config::PROFILE.get().is_empty() {
        if config::signal() != 0 {
            Line::new()
                .text("POOLALLOC_SIGNAL without POOLALLOC_REPORT or POOLALLOC_PROFILE, ignored")
                .write();
        }
        return;
    }
    if !config::REPORT.get().is_empty() {
        latency::start_latency();
        time_line::start_time_line();
    }
    if !register() {
        Line::new().text("no report will be written: atexit failed").write();
    }
    if config::signal() != 0 && listen(config::signal()).is_err() {
        Line::new().text("POOLALLOC_SIGNAL: cannot listen").write();
    }
}

/// Has this process write reports at its end; whether it will.
fn register() -> bool {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    // Relaxed, twice: only decides who does it; a value of its own.
    if REGISTERED.swap(true, Relaxed) {
        return true;
    }
    // SAFETY: always callable.
    PROCESS.store(unsafe { libc::getpid() }, Relaxed);
    // SAFETY: the function fits its signature. Where there is no room for it, no report is written.
    let is_done = unsafe { libc::atexit(at_exit) } == 0;
    REGISTERED.store(is_done, Relaxed);
    is_done
}

/// Writes a report to this path when the process ends, as `POOLALLOC_REPORT` and
/// `POOLALLOC_PROFILE` do: by return from `main` or [`std::process::exit`]. The ending names the
/// format, and `1` stands for one screen of text on standard error; places in it are those of
/// [`write()`](super::write()). Two paths at most, those of the environment among them.
///
/// A relative path is resolved when the file is written: a program that changes its folder
/// (`chdir`) until then writes elsewhere.
///
/// Of what was not switched on there is nothing in it: see [`start_sampling`](crate::start_sampling),
/// [`start_latency`](crate::start_latency) and [`start_time_line`](super::start_time_line).
///
/// # Errors
///
/// `InvalidInput` where no format has the ending or the path is longer than 1,024 bytes,
/// `AlreadyExists` for a third path, `OutOfMemory` where the system has no room to note it.
///
/// ```no_run
/// alloc_global::report::write_at_exit("heap-%e-%p.html")?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn write_at_exit(template: impl AsRef<Path>) -> io::Result<()> {
    let template = template.as_ref();
    let bytes = template.as_os_str().as_bytes();
    let is_known = bytes == b"1" || Format::of(template).is_some();
    let fits = bytes.len() <= config::LONGEST;
    if !is_known || !fits {
        let why = if fits { Format::NONE } else { "the path is longer than 1,024 bytes" };
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    // So that the environment is read before.
    drop(std::hint::black_box(Box::new(0u8)));
    if !config::REPORT.set(bytes) && !config::PROFILE.set(bytes) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "two paths are set"));
    }
    if register() { Ok(()) } else { Err(io::ErrorKind::OutOfMemory.into()) }
}

/// Writes the reports of [`write_at_exit`] whenever this signal comes, as `POOLALLOC_SIGNAL` does.
/// A thread of our own does it, which a child of `fork` does not have; there this can be called
/// again.
///
/// # Errors
///
/// What the system says about the signal, `OutOfMemory` where no thread could be started,
/// `WouldBlock` where another thread is about to start it.
///
/// ```
/// // SIGUSR2 on Linux.
/// alloc_global::report::write_on_signal(12)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn write_on_signal(signal: i32) -> io::Result<()> {
    listen(signal)
}

/// Has a thread of our own write reports whenever the signal comes. Allocates nothing, and waits
/// for nobody: the environment is read with this.
fn listen(signal: libc::c_int) -> io::Result<()> {
    start_listener()?;
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zeroed is a valid value: no flags, an empty mask.
    let action = unsafe { action.assume_init_mut() };
    action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: a valid action, whose handler does what handlers may.
    match unsafe { libc::sigaction(signal, action, null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Starts the thread, unless this process has it.
fn start_listener() -> io::Result<()> {
    /// The process that has it, and that in which a thread is starting it. A child of fork is another.
    static LISTENS: AtomicI32 = AtomicI32::new(0);
    static STARTS: AtomicI32 = AtomicI32::new(0);
    // SAFETY: always callable.
    let process = unsafe { libc::getpid() };
    // Acquire: pairs with the Release below: the semaphore is there.
    if LISTENS.load(Acquire) == process {
        return Ok(());
    }
    // Acquire: pairs with the Release below, of who was here before.
    if STARTS.swap(process, Acquire) == process {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    // Relaxed: if another thread was here before, the Acquire above has seen to it.
    let mut is_there = LISTENS.load(Relaxed) == process;
    // SAFETY: a place of ours, before anybody of this process uses it.
    if !is_there && unsafe { libc::sem_init(CAME.get(), 0, 0) } == 0 {
        is_there = purger::spawn_raw(wait, STACK);
        if is_there {
            // Release: pairs with the Acquire above.
            LISTENS.store(process, Release);
        }
    }
    // Release: pairs with the Acquire above.
    STARTS.store(0, Release);
    if is_there { Ok(()) } else { Err(io::ErrorKind::OutOfMemory.into()) }
}

extern "C" fn on_signal(_: libc::c_int) {
    // SAFETY: initialised before the handler was installed; may be called from handlers.
    keeping_errno(|| unsafe { libc::sem_post(CAME.get()) });
}

extern "C" fn wait(_: *mut libc::c_void) -> *mut libc::c_void {
    purger::block_signals();
    loop {
        // SAFETY: initialised before this thread was started.
        if unsafe { libc::sem_wait(CAME.get()) } == 0 {
            write_all();
        }
    }
}

extern "C" fn at_exit() {
    write_all();
}

/// Writes what is asked for, as far as this process may.
fn write_all() {
    // SAFETY: always callable.
    let is_child = unsafe { libc::getpid() } != PROCESS.load(Relaxed);
    let written = catch_unwind(AssertUnwindSafe(|| crate::untracked(|| write_both(is_child))));
    if written.is_err() {
        Line::new().text("no report was written: it panicked").write();
    }
}

fn write_both(is_child: bool) {
    let paths = [config::REPORT.get(), config::PROFILE.get()];
    let may = |path: &[u8]| !path.is_empty() && (!is_child || template::names_process(path));
    let wanted: Vec<_> = paths.into_iter().filter(|path| may(path)).collect();
    if wanted.is_empty() {
        return;
    }
    let report = Report::gather();
    for path in wanted {
        write_or_say(Path::new(OsStr::from_bytes(path)), &report, &DebugInfo);
    }
}
