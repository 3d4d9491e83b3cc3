//! What the system says about memory: which pages of a range are resident, and how many the process has.
//!
//! | source | what | cost |
//! |---|---|---|
//! | `mincore` | a byte per page of a range | a system call per MiB |
//! | `/proc/self/smaps_rollup` | resident and anonymous bytes, exact | the kernel walks the page tables: about a millisecond per resident GiB |
//! | `/proc/self/statm` | the same from counters, where the first cannot be read | a few microseconds; may lag by some pages per processor |
//! | `mallinfo2` | what glibc's `malloc` holds | a step per free block of glibc, under its locks |
//!
//! Nothing here allocates: files are read into a buffer on the stack. What cannot be had is `None`,
//! never a guess.

use alloc_core::{ARENA_SIZE, PAGE_SIZE};
use core::ffi::CStr;

/// Pages of an arena.
pub(crate) const ARENA_PAGES: usize = ARENA_SIZE / PAGE_SIZE;

/// Which pages of an arena are resident: a bit per 4 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pages([u64; ARENA_PAGES / 64]);

impl Pages {
    /// All of them.
    pub(crate) const ALL: Pages = Pages([u64::MAX; ARENA_PAGES / 64]);

    /// Whether page `index` is resident.
    pub(crate) fn has(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 != 0)
    }

    fn set(&mut self, index: usize) {
        if let Some(word) = self.0.get_mut(index / 64) {
            *word |= 1 << (index % 64);
        }
    }

    /// Resident bytes between two offsets.
    pub(crate) fn bytes(&self, start: usize, end: usize) -> u64 {
        let mut sum = 0;
        let mut at = start;
        while at < end {
            let page_end = (at / PAGE_SIZE + 1).saturating_mul(PAGE_SIZE).min(end);
            sum += if self.has(at / PAGE_SIZE) { (page_end - at) as u64 } else { 0 };
            at = page_end;
        }
        sum
    }
}

/// Which pages of the arena's length from `start` on are resident; all of them where the system
/// does not say.
pub(crate) fn arena_pages(start: usize) -> Pages {
    resident_pages(start, ARENA_SIZE).unwrap_or(Pages::ALL)
}

/// Which of the pages from `start` on are resident, up to an arena's length. Where part of it is
/// not mapped: none.
fn resident_pages(start: usize, len: usize) -> Option<Pages> {
    let mut states = [0u8; ARENA_PAGES];
    let page = page_size();
    // Never true of a system that `PAGE_SIZE` allows for; the buffer must be long enough.
    if page < PAGE_SIZE || len > ARENA_SIZE {
        return None;
    }
    let address = core::ptr::without_provenance_mut(start);
    // SAFETY: asks about addresses only, and writes a byte per page, at most as many as the buffer has.
    if unsafe { libc::mincore(address, len, states.as_mut_ptr()) } != 0 {
        let gone = std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOMEM);
        return gone.then_some(Pages::default());
    }
    let mut pages = Pages::default();
    for (index, state) in states.iter().take(len.div_ceil(page)).enumerate() {
        if state & 1 != 0 {
            let first = index * page / PAGE_SIZE;
            (first..first + page / PAGE_SIZE).for_each(|page| pages.set(page));
        }
    }
    Some(pages)
}

/// Resident bytes of a range that starts at a page; all of them where the system does not say.
pub(crate) fn resident_bytes(start: usize, len: usize) -> u64 {
    parts(start, len).map(|(part, bytes)| bytes.unwrap_or(part as u64)).sum()
}

/// The same, if the system says it of the whole range.
pub(crate) fn known_resident_bytes(start: usize, len: usize) -> Option<u64> {
    parts(start, len).map(|(_, bytes)| bytes).sum()
}

/// The range by what one call answers for: bytes, and resident ones.
fn parts(start: usize, len: usize) -> impl Iterator<Item = (usize, Option<u64>)> {
    (0..len).step_by(ARENA_SIZE).map(move |done| {
        let part = (len - done).min(ARENA_SIZE);
        (part, resident_pages(start + done, part).map(|pages| pages.bytes(0, part)))
    })
}

fn page_size() -> usize {
    // SAFETY: always callable.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(0)
}

/// Resident bytes of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resident {
    /// All of them.
    pub(crate) all: u64,
    /// Those that are no file's.
    pub(crate) anonymous: u64,
}

/// Asks the system for the resident bytes of the process.
pub(crate) fn resident() -> Option<Resident> {
    let mut buffer = [0; 4096];
    let rollup = read(c"/proc/self/smaps_rollup", &mut buffer).and_then(parse_rollup);
    if rollup.is_some() {
        return rollup;
    }
    parse_statm(read(c"/proc/self/statm", &mut buffer)?, page_size() as u64)
}

fn parse_rollup(text: &str) -> Option<Resident> {
    let kilobytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Resident { all: kilobytes("Rss:")?, anonymous: kilobytes("Anonymous:")? })
}

fn parse_statm(text: &str, page: u64) -> Option<Resident> {
    let mut numbers = text.split_ascii_whitespace().map(|word| word.parse::<u64>().ok());
    let (_, all, shared) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let all = all.checked_mul(page)?;
    Some(Resident { all, anonymous: all.saturating_sub(shared.checked_mul(page)?) })
}

/// The beginning of a file, as far as the buffer holds it.
pub(crate) fn read<'a>(path: &CStr, buffer: &'a mut [u8]) -> Option<&'a str> {
    // SAFETY: a string that ends; opens for reading only.
    let file = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return None;
    }
    let mut len = 0;
    while let Some(rest) = buffer.get_mut(len..).filter(|rest| !rest.is_empty()) {
        // SAFETY: writes at most as many bytes as `rest` has.
        let got = unsafe { libc::read(file, rest.as_mut_ptr().cast(), rest.len()) };
        match usize::try_from(got) {
            Ok(got) if got > 0 => len += got,
            _ => break,
        }
    }
    // SAFETY: opened above, not used any more.
    unsafe { libc::close(file) };
    core::str::from_utf8(buffer.get(..len)?).ok()
}

/// What glibc's `malloc` holds, over all its arenas. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Malloc {
    /// Blocks in use, their headers, and blocks in glibc's caches of threads.
    pub(crate) in_use: u64,
    /// Free blocks.
    pub(crate) free: u64,
}

/// Asks glibc, where it is there and new enough (2.33).
pub(crate) fn malloc_info() -> Option<Malloc> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // Looked up, not linked: the program still starts with an older glibc.
        // SAFETY: a string that ends.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"mallinfo2".as_ptr()) };
        if found.is_null() {
            return None;
        }
        // SAFETY: glibc's function of that name has this signature.
        let mallinfo2: unsafe extern "C" fn() -> libc::mallinfo2 =
            unsafe { core::mem::transmute(found) };
        // SAFETY: always callable.
        let info = unsafe { mallinfo2() };
        Some(Malloc { in_use: (info.uordblks + info.hblkhd) as u64, free: info.fordblks as u64 })
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_resident_pages_are_counted_to_the_byte() {
        let mut pages = Pages::default();
        pages.set(1);
        pages.set(255);
        assert_eq!(pages.bytes(0, ARENA_SIZE), 2 * 4096);
        assert_eq!(pages.bytes(4000, 4100), 4);
        assert_eq!(pages.bytes(8190, 9000), 2);
        assert_eq!(pages.bytes(ARENA_SIZE - 1, ARENA_SIZE), 1);
        assert_eq!(Pages::ALL.bytes(5, 100_005), 100_000);
    }

    #[test]
    fn the_systems_files_are_read() {
        let rollup = "1-2 ---p 0 [rollup]\nRss:  1604 kB\nPss: 9 kB\nAnonymous:   112 kB\n";
        let expected = Resident { all: 1604 << 10, anonymous: 112 << 10 };
        assert_eq!(parse_rollup(rollup), Some(expected));
        assert_eq!(parse_rollup("Rss: many kB\nAnonymous: 1 kB"), None);
        let expected = Resident { all: 400 << 12, anonymous: 300 << 12 };
        assert_eq!(parse_statm("900 400 100 1 0 2 0\n", 4096), Some(expected));
        assert_eq!(parse_statm("900 400", 4096), None);
        let now = resident().expect("this system has a /proc");
        assert!(now.anonymous > 0 && now.anonymous < now.all, "{now:?}");
    }

    #[test]
    fn touched_pages_are_resident_and_others_are_not() {
        let len = 2 * ARENA_SIZE;
        let (access, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping; nobody else knows it.
        let start = unsafe { libc::mmap(core::ptr::null_mut(), len, access, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        // SAFETY: inside the mapping; no huge page where one page is touched.
        unsafe { libc::madvise(start, len, libc::MADV_NOHUGEPAGE) };
        let address = start.addr();
        assert_eq!(resident_bytes(address, len), 0);
        let last = start.cast::<u8>().wrapping_add(len - 1);
        // SAFETY: the last byte of the mapping.
        unsafe { last.write(1) };
        assert_eq!(resident_bytes(address, len), 4096);
        assert_eq!(known_resident_bytes(address, len), Some(4096));
        assert!(arena_pages(address + ARENA_SIZE).has(255) && !arena_pages(address).has(255));
        // SAFETY: mapped above, not used any more.
        unsafe { libc::munmap(start, len) };
        assert_eq!(resident_bytes(address, len), 0, "not mapped");
        // Not the beginning of a page, which the system refuses.
        assert_eq!(known_resident_bytes(address + 1, len), None);
    }

    #[cfg(target_env = "gnu")]
    #[test]
    fn glibc_says_what_it_holds() {
        let kept = vec![1u8; 100_000];
        let info = malloc_info().expect("this glibc has mallinfo2");
        assert!(info.in_use >= kept.len() as u64, "{info:?}");
    }
}
