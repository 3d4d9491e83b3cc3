//! The other side of a statistics file: finds it, maps it, raises its `watch` word and reads frames.
//!
//! Where a process keeps its file: the default names first, then what it has mapped, by its list of
//! mappings.
//!
//! It trusts the file's layout no further than its magic, version and length. A writer that cuts
//! its own file short ends the reader; nobody else may write it. Paths are bytes: one mapped file
//! whose name is not Unicode does not hide the others.

use crate::futex;
use crate::live_layout::{LEN, Live, LiveFrame};
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::Ordering::{Acquire, Relaxed};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, thread};

/// Time between two looks at a file whose next frame is awaited.
const LOOK: Duration = Duration::from_millis(5);

/// A program's statistics file, open. See [`publish_stats`](crate::publish_stats).
///
/// ```
/// # use std::time::Duration;
/// let path = std::env::temp_dir().join(format!("poolalloc-reader-{}", std::process::id()));
/// alloc_global::publish_stats(&path)?;
/// let reader = alloc_global::LiveReader::open(&path)?;
/// let frame = reader.next_frame(Duration::from_secs(10)).expect("the program publishes");
/// assert_eq!(frame.pid, u64::from(std::process::id()));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct LiveReader {
    live: NonNull<Live>,
    path: PathBuf,
}

// SAFETY: the mapping is this value's, and all of its fields are atomics.
unsafe impl Send for LiveReader {}

impl LiveReader {
    /// Opens a statistics file.
    ///
    /// The file stays mapped while the reader lives. A writer that truncates it ends the program
    /// that reads with `SIGBUS` at the next frame: open only files of programs that you trust.
    /// `alloc_global` itself never truncates its file.
    ///
    /// # Errors
    ///
    /// What the system says; `InvalidData` if it is no statistics file, or one of another version.
    pub fn open(path: impl AsRef<Path>) -> io::Result<LiveReader> {
        let path = path.as_ref().to_owned();
        let file = File::options().read(true).write(true).open(&path)?;
        let found = file.metadata()?;
        if !found.is_file() || found.len() != LEN as u64 {
            let text = "it is no statistics file, or one of another version";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping of an open file.
        let start = unsafe { libc::mmap(null_mut(), LEN, access, flags, file.as_raw_fd(), 0) };
        let live = NonNull::new(start.cast::<Live>()).filter(|_| start != libc::MAP_FAILED);
        let reader = LiveReader { live: live.ok_or_else(io::Error::last_os_error)?, path };
        let check = reader.live().check();
        check.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(reader)
    }

    /// Opens the statistics file of a running process.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such process, or it publishes nothing that this user may read.
    pub fn of_process(pid: u32) -> io::Result<LiveReader> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let error = |text: String| io::Error::new(io::ErrorKind::NotFound, text);
        if !process.is_dir() {
            return Err(error(format!("there is no process {pid}")));
        }
        let folders = env::var_os("XDG_RUNTIME_DIR").into_iter().chain(["/dev/shm".into()]);
        let named = folders.map(|folder| Path::new(&folder).join(format!("poolalloc-{pid}")));
        let maps = fs::read(process.join("maps")).unwrap_or_default();
        let mapped = shared_files(&maps).map(Path::to_owned);
        let files = named.chain(mapped).filter_map(|path| LiveReader::open(path).ok());
        // A file that an earlier process of this number left behind is not that of this one; nor is
        // what a child of fork has mapped of its parent's, or who reads, of another's.
        let mut own = files.filter(|reader| reader.live().pid.load(Relaxed) == u64::from(pid));
        own.next().ok_or_else(|| {
            error(format!(
                "process {pid} publishes no statistics: start it with POOLALLOC_STATS_FILE=1"
            ))
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asks for a frame and waits for it, for `limit` at most. `None` if there is none by then: the
    /// program is stopped, or gone.
    ///
    /// The program goes on publishing for two seconds after the last question.
    pub fn next_frame(&self, limit: Duration) -> Option<LiveFrame> {
        let live = self.live();
        // Acquire: pairs with the Release in `Live::write`.
        let before = live.sequence.load(Acquire);
        // Relaxed: only its change matters; the kernel orders it before the wake.
        live.watch.fetch_add(1, Relaxed);
        futex::wake_shared(&live.watch);
        let start = Instant::now();
        loop {
            // Acquire: as above. Even and changed: a whole frame that is newer.
            let now = live.sequence.load(Acquire);
            if now != before
                && now.is_multiple_of(2)
                && let Some(frame) = live.read()
            {
                return Some(frame);
            }
            if start.elapsed() >= limit {
                return None;
            }
            thread::sleep(LOOK);
        }
    }

    fn live(&self) -> &Live {
        // SAFETY: mapped for as long as this value lives; atomics, for which any bytes will do.
        unsafe { self.live.as_ref() }
    }
}

impl Drop for LiveReader {
    fn drop(&mut self) {
        // SAFETY: mapped by `open` with this length; no reference to it is left.
        unsafe { libc::munmap(self.live.as_ptr().cast(), LEN) };
    }
}

/// Files in a list of mappings that are shared and writable, as `/proc/PID/maps` has them.
fn shared_files(maps: &[u8]) -> impl Iterator<Item = &Path> {
    maps.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut words = line.splitn(6, |byte| *byte == b' ');
        let access = words.nth(1)?;
        let path = words.nth(3)?.trim_ascii_start();
        let is_there = path.starts_with(b"/") && !path.ends_with(b" (deleted)");
        (access == b"rw-s" && is_there).then_some(Path::new(OsStr::from_bytes(path)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live_layout::{MAGIC, VERSION};

    #[test]
    fn shared_files_are_found_among_mappings() {
        let maps = b"7f00-7f01 rw-s 00000000 00:1a 23                         /dev/shm/a b\n\
                    7f02-7f03 rw-p 00000000 00:1a 24                         /lib/b\n\
                    7f04-7f05 rw-s 00000000 00:1a 25                         /gone (deleted)\n\
                    7f06-7f07 rw-s 00000000 00:00 0 \n\
                    7f08-7f09 r--s 00000000 00:1a 26                         /c\n\
                    7f0a-7f0b rw-s 00000000 00:1a 27                         /d\xFF\n";
        let paths = [Path::new("/dev/shm/a b"), Path::new(OsStr::from_bytes(b"/d\xFF"))];
        assert_eq!(shared_files(maps).collect::<Vec<_>>(), paths);
    }

    /// A statistics file of a process, named by bytes.
    fn write_file(name: &[u8], pid: u64) -> PathBuf {
        let words = [MAGIC, VERSION, LEN as u64, pid].map(u64::to_ne_bytes).concat();
        let number = std::process::id().to_string();
        let name = [b"poolalloc-", name, b"-", number.as_bytes()].concat();
        let path = env::temp_dir().join(OsStr::from_bytes(&name));
        fs::write(&path, [words, vec![0; LEN - 32]].concat()).unwrap();
        path
    }

    #[test]
    fn a_mapped_file_is_that_of_the_process_in_it() {
        let own = std::process::id();
        // As a child of fork has it, and who reads another process's.
        let other = write_file(b"of-another", u64::from(own) + 1);
        let _mapped = LiveReader::open(&other).unwrap();
        let found = LiveReader::of_process(own);
        assert!(found.as_ref().map_or(true, |found| found.path() != other), "{found:?}");
        // Its own is found behind that, though its name is not Unicode.
        let named = write_file(b"not-unicode-\xFF", own.into());
        let _mapped = LiveReader::open(&named).unwrap();
        let found = LiveReader::of_process(own).unwrap();
        assert_eq!(found.path(), named);
        for path in [other, named] {
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn what_is_no_statistics_file_is_refused() {
        let path = env::temp_dir().join(format!("poolalloc-no-file-{}", std::process::id()));
        assert_eq!(LiveReader::open(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        for bytes in [vec![], vec![0u8; LEN], vec![7u8; LEN]] {
            fs::write(&path, bytes).unwrap();
            let error = LiveReader::open(&path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
        fs::remove_file(&path).unwrap();
        let gone = LiveReader::of_process(u32::MAX).unwrap_err();
        assert_eq!(gone.to_string(), format!("there is no process {}", u32::MAX));
    }
}
