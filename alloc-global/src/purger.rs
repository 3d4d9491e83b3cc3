//! An optional background thread that gives free memory back while the program is idle.
//!
//! A raw pthread with a small stack: it must be startable from inside the allocator, before `main`, where
//! std's threads would allocate. It sleeps for half the purge delay, looks whether memory is due, and
//! uses no memory of ours; glibc's, for a moment, to have it look at the end of a heap. What caches
//! held goes back on its stack: so does what a fallback named by the program does in `dealloc`. A
//! child of `fork` has none; it may start its own.

use crate::{config, fallback, purge, thread, visit};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, Ordering};

static RUNNING: AtomicBool = AtomicBool::new(false);

pub(crate) const STACK: usize = 64 << 10;

/// Sleep where the delay is `never` or 0, in milliseconds.
const IDLE_MS: u64 = 1000;

/// Starts the thread unless it runs already. Whether it runs now.
pub(crate) fn spawn() -> bool {
    // Relaxed: only decides who starts it.
    if RUNNING.swap(true, Ordering::Relaxed) {
        return true;
    }
    let started = spawn_raw(run, STACK);
    if !started {
        RUNNING.store(false, Ordering::Relaxed);
    }
    started
}

/// A child of fork has no such thread.
pub(crate) fn forget_after_fork() {
    // Relaxed: the child has one thread.
    RUNNING.store(false, Ordering::Relaxed);
}

/// What a thread of ours runs.
type Body = extern "C" fn(*mut libc::c_void) -> *mut libc::c_void;

/// Starts a detached thread with a stack of so many bytes, without std: that would allocate.
/// Whether it runs.
pub(crate) fn spawn_raw(body: Body, stack: usize) -> bool {
    // glibc takes a program's thread-local variables out of the stack, and refuses one that they do
    // not leave enough of.
    spawn_with(body, Some(stack)) || spawn_with(body, None)
}

fn spawn_with(body: Body, stack: Option<usize>) -> bool {
    let mut attributes = core::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: writes the attributes.
    if unsafe { libc::pthread_attr_init(attributes.as_mut_ptr()) } != 0 {
        return false;
    }
    if let Some(stack) = stack {
        // SAFETY: initialised above. Where one of the two is refused, the default does.
        unsafe { libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), stack) };
    }
    let detached = libc::PTHREAD_CREATE_DETACHED;
    // SAFETY: initialised above.
    unsafe { libc::pthread_attr_setdetachstate(attributes.as_mut_ptr(), detached) };
    // A number with some C libraries, a pointer with others.
    let mut thread = core::mem::MaybeUninit::<libc::pthread_t>::uninit();
    let (thread, attributes_read) = (thread.as_mut_ptr(), attributes.as_ptr());
    // SAFETY: initialised attributes; `body` fits its signature and takes no argument.
    let made = unsafe { libc::pthread_create(thread, attributes_read, body, null_mut()) };
    // SAFETY: initialised above, not used any more.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    made == 0
}

extern "C" fn run(_: *mut libc::c_void) -> *mut libc::c_void {
    block_signals();
    loop {
        let delay = config::purge_delay_ms();
        let pause = if delay == config::NEVER || delay == 0 { IDLE_MS } else { delay.div_ceil(2) };
        sleep(pause);
        let mut bytes = purge::run_if_due();
        if delay != config::NEVER {
            bytes += visit::sweep_others(purge::now(), 2 * thread::SWEEP_MS);
        }
        if bytes > 0 {
            fallback::trim_system();
        }
    }
}

/// Signals are for the program's own threads.
pub(crate) fn block_signals() {
    let mut all = core::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: writes the set.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: initialised above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), null_mut()) };
}

/// Sleeps; a signal may end it early.
pub(crate) fn sleep(milliseconds: u64) {
    let time = libc::timespec {
        tv_sec: (milliseconds / 1000).cast_signed(),
        tv_nsec: (milliseconds % 1000 * 1_000_000).cast_signed(),
    };
    // SAFETY: reads the time only.
    unsafe { libc::nanosleep(&raw const time, null_mut()) };
}
