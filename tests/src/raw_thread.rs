//! POSIX threads, and destructors of their thread-local values.
//!
//! `std::thread::spawn` allocates in the new thread before any user code runs. An allocator that
//! registers its own thread-local destructor at that moment sees it run last, so the interesting
//! orders never happen. The threads made here touch the allocator only when the test does.
//!
//! Order on glibc when a thread ends: first what [`at_thread_exit`] registered, newest first,
//! including what is registered meanwhile; then up to four rounds over the keys, lowest key first,
//! for as long as a destructor sets a value again.

#[cfg(target_env = "gnu")]
use std::ffi::c_int;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr;

/// A destructor of a thread-local value: gets the number that was stored, which is never 0.
pub type Destructor = extern "C" fn(*mut c_void);

/// Rounds over the keys that glibc promises at least (`PTHREAD_DESTRUCTOR_ITERATIONS`).
pub const ROUNDS: usize = 4;

#[cfg(target_env = "gnu")]
unsafe extern "C" {
    /// Registers a destructor for the calling thread; what C++ and Rust thread-locals use.
    fn __cxa_thread_atexit_impl(
        destructor: Destructor,
        object: *mut c_void,
        dso_symbol: *mut c_void,
    ) -> c_int;
    /// Marks this program among the shared objects; only its address matters.
    safe static __dso_handle: u8;
}

/// What a new thread is handed: lives in the parent's frame until the thread was joined.
struct Start<'a> {
    body: &'a (dyn Fn(usize) + Sync),
    index: usize,
}

/// Runs `body(0..count)`, each in a POSIX thread of its own, and waits for all of them.
///
/// # Panics
/// If a thread cannot be made. A panic in `body` ends the process.
pub fn run(count: usize, body: &(dyn Fn(usize) + Sync)) {
    let starts: Vec<Start<'_>> = (0..count).map(|index| Start { body, index }).collect();
    let threads: Vec<libc::pthread_t> = starts.iter().map(spawn).collect();
    for thread in threads {
        // SAFETY: the thread was made above, is joinable and is joined once.
        let answer = unsafe { libc::pthread_join(thread, ptr::null_mut()) };
        assert_eq!(answer, 0, "pthread_join failed");
    }
}

fn spawn(start: &Start<'_>) -> libc::pthread_t {
    // A number with some C libraries, a pointer with others.
    let mut thread = MaybeUninit::<libc::pthread_t>::uninit();
    let argument = ptr::from_ref(start).cast_mut().cast::<c_void>();
    // SAFETY: `enter` takes a `Start`; `run` keeps this one alive until it has joined the thread.
    let answer = unsafe { libc::pthread_create(thread.as_mut_ptr(), ptr::null(), enter, argument) };
    assert_eq!(answer, 0, "pthread_create failed: {}", std::io::Error::from_raw_os_error(answer));
    // SAFETY: written, as the thread was made.
    unsafe { thread.assume_init() }
}

extern "C" fn enter(argument: *mut c_void) -> *mut c_void {
    // SAFETY: `spawn` passed a `Start` that outlives this thread.
    let start = unsafe { &*argument.cast::<Start<'_>>() };
    (start.body)(start.index);
    ptr::null_mut()
}

/// Has `destructor` called with `value` when the calling thread ends, before any key's destructor.
/// With glibc only: other C libraries have nothing like it.
///
/// # Panics
/// If the C library has no room.
#[cfg(target_env = "gnu")]
pub fn at_thread_exit(destructor: Destructor, value: usize) {
    let object = ptr::without_provenance_mut(value);
    let program = (&raw const __dso_handle).cast_mut().cast();
    // SAFETY: the destructor is a function of this program, which is never unloaded, and takes any number.
    let answer = unsafe { __cxa_thread_atexit_impl(destructor, object, program) };
    assert_eq!(answer, 0, "__cxa_thread_atexit_impl failed");
}

/// A key of thread-local numbers with a destructor.
#[derive(Clone, Copy, Debug)]
pub struct Key(libc::pthread_key_t);

impl Key {
    /// A new key; keys made earlier have lower numbers, and their destructors run first.
    ///
    /// # Panics
    /// If the process has no key left.
    pub fn new(destructor: Destructor) -> Key {
        let mut key = 0;
        // SAFETY: `key` is ours; the destructor is a function of this program and takes any number.
        let answer = unsafe { libc::pthread_key_create(&raw mut key, Some(destructor)) };
        assert_eq!(answer, 0, "pthread_key_create failed");
        Key(key)
    }

    /// The key's number.
    pub fn number(self) -> u32 {
        self.0
    }

    /// Sets the calling thread's value; any value but 0 has the destructor called.
    ///
    /// # Panics
    /// If the C library has no room.
    pub fn set(self, value: usize) {
        // SAFETY: the key was made and is never deleted.
        let answer = unsafe { libc::pthread_setspecific(self.0, ptr::without_provenance(value)) };
        assert_eq!(answer, 0, "pthread_setspecific failed");
    }
}
