//! [`Trace`] for types of the standard library that own no handles, or none that may be shown.
//!
//! | types | why nothing is reported |
//! |---|---|
//! | numbers, text, times, addresses, files, errors | they own no handle |
//! | references, `Weak`s, function pointers | they lead to something and own nothing |
//! | `Rc`, `Arc` | what is inside has several owners: an edge would be reported once for each, but is counted once |
//! | `ManuallyDrop`, `MaybeUninit` | whether there is a value is not known |
//! | `LazyCell`, `LazyLock` | before Rust 1.94 there is no way to look without forcing them |
//!
//! Guards (`MutexGuard`, `Ref`) are not among them: `guard.trace(tracer)`, by hand, would stop at
//! the guard and not reach what it guards, which would leak without a word.
//!
//! Nothing here looks at a value, so nothing here can be wrong at run time: what is not reported
//! counts as held from outside.

use std::alloc::{Layout, LayoutError, System};
use std::any::{Any, TypeId};
use std::cell::{BorrowError, BorrowMutError, LazyCell};
use std::collections::TryReserveError;
use std::error::Error;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::hash::{BuildHasherDefault, DefaultHasher, RandomState};
use std::marker::{PhantomData, PhantomPinned};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::path::{Path, PathBuf};
use std::sync::atomic::{
    AtomicBool, AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicIsize, AtomicU8, AtomicU16,
    AtomicU32, AtomicU64, AtomicUsize,
};
use std::sync::{Barrier, Condvar, LazyLock, Once};
use std::{backtrace, char, cmp, convert, env, ffi, fmt, fs, io, net, num, ops, panic, process};
use std::{rc, slice, str, string, sync, task, thread, time};

use super::{Trace, Tracer};

/// Types of which nothing is reported, with their parameters in brackets.
macro_rules! leaves {
    ($([$($generics:tt)*] $t:ty),* $(,)?) => {$(
        // SAFETY: reports nothing.
        unsafe impl<$($generics)*> Trace for $t {
            #[inline]
            fn trace(&self, _: &mut Tracer) {}
            #[inline]
            fn holds_gc(_: u32) -> bool {
                false
            }
        }
    )*};
    ($($t:ty),* $(,)?) => { leaves!($([] $t),*); };
}
#[cfg(any(
    feature = "arrayvec",
    feature = "bytes",
    feature = "parking_lot",
    feature = "serde_json",
    feature = "slotmap"
))]
pub(super) use leaves;

/// The same for types without a size.
macro_rules! unsized_leaves {
    ($($t:ty),* $(,)?) => {$(
        // SAFETY: reports nothing.
        unsafe impl Trace for $t {
            #[inline]
            fn trace(&self, _: &mut Tracer) {}
        }
    )*};
}

// Numbers and their like.
leaves!(
    (),
    bool,
    char,
    u8,
    u16,
    u32,
    u64,
    u128,
    usize,
    i8,
    i16,
    i32,
    i64,
    i128,
    isize,
    f32,
    f64,
    num::NonZeroU8,
    num::NonZeroU16,
    num::NonZeroU32,
    num::NonZeroU64,
    num::NonZeroU128,
    num::NonZeroUsize,
    num::NonZeroI8,
    num::NonZeroI16,
    num::NonZeroI32,
    num::NonZeroI64,
    num::NonZeroI128,
    num::NonZeroIsize,
    num::FpCategory,
    cmp::Ordering,
    sync::atomic::Ordering,
    convert::Infallible,
    ops::RangeFull,
    fmt::Alignment,
    ffi::c_void,
    PhantomPinned,
    TypeId,
    Layout,
    System,
    AtomicBool,
    AtomicU8,
    AtomicU16,
    AtomicU32,
    AtomicU64,
    AtomicUsize,
    AtomicI8,
    AtomicI16,
    AtomicI32,
    AtomicI64,
    AtomicIsize,
);

// Text and paths, and iterators over a character's.
leaves!(String, OsString, CString, PathBuf);
leaves!(
    char::EscapeDebug,
    char::EscapeDefault,
    char::EscapeUnicode,
    char::ToLowercase,
    char::ToUppercase,
    std::ascii::EscapeDefault,
);
unsized_leaves!(str, OsStr, CStr, Path);

// Time, threads, hashing, the network, files, processes. What other threads may use holds no handle.
leaves!(
    time::Duration,
    time::Instant,
    time::SystemTime,
    thread::Builder,
    thread::Thread,
    thread::ThreadId,
    Barrier,
    Condvar,
    Once,
    task::Waker,
    task::RawWakerVTable,
    DefaultHasher,
    RandomState,
    net::IpAddr,
    net::Ipv4Addr,
    net::Ipv6Addr,
    net::SocketAddr,
    net::SocketAddrV4,
    net::SocketAddrV6,
    net::Shutdown,
    net::TcpListener,
    net::TcpStream,
    net::UdpSocket,
    fs::DirEntry,
    fs::File,
    fs::FileTimes,
    fs::FileType,
    fs::Metadata,
    fs::OpenOptions,
    fs::Permissions,
    fs::ReadDir,
    fs::DirBuilder,
    io::Empty,
    io::PipeReader,
    io::PipeWriter,
    io::Repeat,
    io::SeekFrom,
    io::Sink,
    io::Stderr,
    io::Stdin,
    io::Stdout,
    process::Child,
    process::Command,
    process::ChildStderr,
    process::ChildStdin,
    process::ChildStdout,
    process::ExitCode,
    process::ExitStatus,
    process::Output,
    process::Stdio,
    backtrace::Backtrace,
    backtrace::BacktraceStatus,
    env::Args,
    env::ArgsOs,
    env::Vars,
    env::VarsOs,
);
leaves!(['a] panic::Location<'a>, ['a] fmt::Arguments<'a>);
#[cfg(unix)]
leaves!(std::os::fd::OwnedFd, std::os::unix::net::UnixListener, std::os::unix::net::UnixStream);
#[cfg(unix)]
leaves!(['a] std::os::fd::BorrowedFd<'a>);

// Errors, and what is `Send` and so holds no handle.
leaves!(
    fmt::Error,
    io::Error,
    io::ErrorKind,
    io::WriterPanicked,
    fs::TryLockError,
    slice::GetDisjointMutError,
    env::JoinPathsError,
    env::VarError,
    num::IntErrorKind,
    num::ParseFloatError,
    num::ParseIntError,
    num::TryFromIntError,
    str::ParseBoolError,
    str::Utf8Error,
    string::FromUtf8Error,
    string::FromUtf16Error,
    char::CharTryFromError,
    char::DecodeUtf16Error,
    char::ParseCharError,
    ffi::FromBytesUntilNulError,
    ffi::FromBytesWithNulError,
    ffi::FromVecWithNulError,
    ffi::IntoStringError,
    ffi::NulError,
    net::AddrParseError,
    std::path::StripPrefixError,
    time::SystemTimeError,
    time::TryFromFloatSecsError,
    std::array::TryFromSliceError,
    sync::mpsc::RecvError,
    sync::mpsc::TryRecvError,
    thread::AccessError,
    BorrowError,
    BorrowMutError,
    LayoutError,
    TryReserveError,
);
unsized_leaves!(dyn Error + Send, dyn Error + Send + Sync, dyn Any + Send, dyn Any + Send + Sync);

// What leads somewhere and owns nothing.
leaves!(
    [T: ?Sized] &T,
    [T: ?Sized] &mut T,
    [T: ?Sized] PhantomData<T>,
    [T: ?Sized] rc::Weak<T>,
    [T: ?Sized] sync::Weak<T>,
    [H] BuildHasherDefault<H>,
    [T] thread::JoinHandle<T>,
    [T] std::future::Pending<T>,
    [T] std::mem::Discriminant<T>,
);

/// What std has, though it would rather not.
#[expect(deprecated, reason = "a type of old programs may hold one")]
mod old {
    use super::{Trace, Tracer};

    leaves!(std::hash::SipHasher);
}

// What may not be looked into; see the table in `Trace`.
unsized_leaves!(dyn Error);
leaves!(
    [T: Trace + ?Sized] rc::Rc<T>,
    [T: Trace + ?Sized] sync::Arc<T>,
    [T: ?Sized] ManuallyDrop<T>,
    [T] MaybeUninit<T>,
    [T: Trace, F] LazyCell<T, F>,
    [T: Trace, F] LazyLock<T, F>,
);

/// Function pointers with these parameters, and with those that remain when the first is left out.
macro_rules! functions {
    ($($first:ident $($rest:ident)*)?) => {
        leaves!(
            [R $(, $first $(, $rest)*)?] fn($($first $(, $rest)*)?) -> R,
            [R $(, $first $(, $rest)*)?] unsafe fn($($first $(, $rest)*)?) -> R,
            [R $(, $first $(, $rest)*)?] extern "C" fn($($first $(, $rest)*)?) -> R,
            [R $(, $first $(, $rest)*)?] unsafe extern "C" fn($($first $(, $rest)*)?) -> R,
        );
        $(
            leaves!(
                [R, $first $(, $rest)*] extern "C" fn($first $(, $rest)*, ...) -> R,
                [R, $first $(, $rest)*] unsafe extern "C" fn($first $(, $rest)*, ...) -> R,
            );
            functions!($($rest)*);
        )?
    };
}

functions!(A B C D E F G H I J K L);
