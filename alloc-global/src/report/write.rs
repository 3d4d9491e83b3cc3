//! Reports in files: whole under their final name, or not there at all.
//!
//! ```text
//! template --expand--> path             its ending: the format
//!                       |
//! .poolalloc.PID.N.part <-  written, synced, then renamed to the path; removed if anything fails
//! ```
//!
//! 1. A file under the final name is whole. What was there before stays until then.
//! 2. What exists and is no regular file (a pipe, a device) is written to as it is: it has no whole
//!    to keep.
//! 3. A failure is one line on standard error, and nothing else: the program goes on.
//!
//! What it does not do: make folders, or remove what others left behind. No unsafe here.

use super::frame::Symbols;
use super::model::Report;
use super::{Metric, dhat, folded, html, json, pprof, text};
use crate::template::{self, Known};
use crate::{DebugInfo, untracked};
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::UNIX_EPOCH;

/// A format of files, known by their ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// `.txt`: one screen of text.
    Text,
    /// `.json`: everything.
    Json,
    /// `.html`: one page.
    Html,
    /// `.pb.gz`: pprof's.
    Pprof,
    /// `.dhat.json`: DHAT's.
    Dhat,
    /// `.folded`: collapsed stacks, by live bytes.
    Folded,
}

impl Format {
    /// The format that the path's ending names.
    ///
    /// ```
    /// use alloc_global::report::Format;
    ///
    /// assert_eq!(Format::of("heap.dhat.json"), Some(Format::Dhat));
    /// assert_eq!(Format::of("heap.json"), Some(Format::Json));
    /// assert_eq!(Format::of("heap"), None);
    /// ```
    pub fn of(path: impl AsRef<Path>) -> Option<Format> {
        let endings = [
            (".txt", Format::Text),
            (".dhat.json", Format::Dhat),
            (".json", Format::Json),
            (".html", Format::Html),
            (".pb.gz", Format::Pprof),
            (".folded", Format::Folded),
        ];
        // Not the path's extension: a format's ending may have two dots. Nothing is allocated:
        // settings are read with this.
        let path = path.as_ref().as_os_str().as_bytes();
        let found = endings.into_iter().find(|(ending, _)| path.ends_with(ending.as_bytes()));
        found.map(|(_, format)| format)
    }

    /// What is said where a path has none of the endings.
    pub(crate) const NONE: &str =
        "no format has this ending (txt, json, html, dhat.json, pb.gz, folded)";

    /// The report in this format.
    pub fn render(self, report: &Report, symbols: &dyn Symbols) -> Vec<u8> {
        match self {
            Format::Text => text(report, symbols).into_bytes(),
            Format::Json => json(report, symbols).into_bytes(),
            Format::Html => html(report, symbols).into_bytes(),
            Format::Pprof => pprof(report, symbols),
            Format::Dhat => dhat(report, symbols).into_bytes(),
            Format::Folded => folded(report, symbols, Metric::LiveBytes).into_bytes(),
        }
    }
}

/// Why a report could not be written. Displays as `cannot write report PATH: REASON`.
#[derive(Debug)]
pub struct WriteError {
    /// The path, expanded.
    path: PathBuf,
    /// What the system said, or that no format has the path's ending.
    reason: io::Error,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot write report {}: {}", self.path.display(), self.reason)
    }
}

impl std::error::Error for WriteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.reason)
    }
}

/// Writes the report to the file that `template` names, in the format of its ending, and returns its path.
///
/// In the template `%p` stands for the process, `%t` for the report's time in seconds since 1970,
/// `%e` for the program's name and `%%` for `%`.
///
/// # Errors
///
/// If no format has the ending, or the file cannot be written whole; then nothing is under the final name
/// but what was there before.
///
/// ```
/// use alloc_global::report::{self, NoSymbols, Report};
///
/// let template = std::env::temp_dir().join("example-%p.txt");
/// let path = report::write(template.to_str().unwrap(), &Report::of_process(), &NoSymbols)?;
/// assert!(std::fs::read_to_string(&path)?.contains("= mapped"));
/// # std::fs::remove_file(path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write(
    template: impl AsRef<Path>,
    report: &Report,
    symbols: &dyn Symbols,
) -> Result<PathBuf, WriteError> {
    let path = expand(template.as_ref(), report);
    let failed = |reason| WriteError { path: path.clone(), reason };
    let Some(format) = Format::of(&path) else {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, Format::NONE)));
    };
    let written = untracked(|| put(&path, &format.render(report, symbols)));
    DebugInfo::forget();
    written.map_err(failed)?;
    Ok(path)
}

/// As [`write()`]; a failure is one line on standard error. The template `1` stands for one screen
/// of text on standard error. Returns whether the report was written.
pub fn write_or_say(template: impl AsRef<Path>, report: &Report, symbols: &dyn Symbols) -> bool {
    let template = template.as_ref();
    if template == Path::new("1") {
        return stderr(&text(report, symbols)).is_ok();
    }
    match write(template, report, symbols) {
        Ok(_) => true,
        Err(error) => {
            let line = error.to_string().replace(char::is_control, "?");
            // Where standard error is closed there is nobody to tell.
            let _ = stderr(&format!("poolalloc: {line}\n"));
            false
        }
    }
}

/// Writes without the standard library's lock, which a thread that ended in the middle of a line may hold.
fn stderr(text: &str) -> io::Result<()> {
    let own = io::stderr().as_fd().try_clone_to_owned()?;
    File::from(own).write_all(text.as_bytes())
}

fn expand(path: &Path, report: &Report) -> PathBuf {
    let known = Known {
        process: report.pid.into(),
        seconds: report.taken.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        program: report.program_name().as_bytes(),
    };
    let mut bytes = Vec::new();
    let push = |part: &[u8]| {
        bytes.extend_from_slice(part);
        Some(())
    };
    // There is always room.
    let _ = template::expand(path.as_os_str().as_bytes(), known, push);
    OsString::from_vec(bytes).into()
}

/// Invariants 1 and 2.
fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return OpenOptions::new().write(true).open(path)?.write_all(bytes);
    }
    // Before there is a part, nothing is ours to remove.
    let (part, file) = begin(path)?;
    let written = fill(file, bytes).and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        // The first failure is the one to tell.
        let _ = fs::remove_file(&part);
    }
    written
}

fn fill(mut file: File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

/// Parts that are tried before one is said to exist.
const TRIES: usize = 1_000;

/// A new part for this path. One that is there already is not ours: an earlier process of this
/// number was killed, or another namespace has a process of this number.
fn begin(path: &Path) -> io::Result<(PathBuf, File)> {
    let mut tries = TRIES;
    loop {
        let part = part(path)?;
        match OpenOptions::new().write(true).create_new(true).open(&part) {
            Ok(file) => return Ok((part, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries > 1 => tries -= 1,
            Err(error) => return Err(error),
        }
    }
}

/// A name beside the final one, so that the rename stays within one file system. Different on every
/// call, and short: the final name may be as long as names can be.
fn part(path: &Path) -> io::Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    if path.file_name().is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no name of a file"));
    }
    // Relaxed: only that no two calls get the same number matters.
    let number = NEXT.fetch_add(1, Relaxed);
    Ok(path.with_file_name(format!(".poolalloc.{}.{number}.part", std::process::id())))
}

#[cfg(test)]
mod tests {
    use super::super::{NoSymbols, testing};
    use super::*;

    /// A folder of its own for each test, gone at its end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Folder {
            let folder =
                std::env::temp_dir().join(format!("poolalloc-{test}-{}", std::process::id()));
            fs::create_dir(&folder).expect("a folder");
            Folder(folder)
        }

        fn path(&self, name: &str) -> String {
            self.0.join(name).to_string_lossy().into_owned()
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).expect("a folder").map(|entry| entry.expect("one"));
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn templates_name_process_time_program_and_percent() {
        let path = expand(Path::new("a%p-%t-%e-%%.txt"), &testing::report());
        assert_eq!(path, Path::new("a4321-1790000095-server-%.txt"));
    }

    #[test]
    fn each_ending_has_its_format() {
        let folder = Folder::new("endings");
        let begins: [(&str, &[u8]); 6] = [
            ("a.html", b"<!doctype html>"),
            ("a.txt", b"poolalloc: server"),
            ("a.json", b"{\"classes\""),
            ("a.dhat.json", b"{\"Mtu\""),
            ("a.pb.gz", &[0x1f, 0x8b]),
            ("a.folded", b"server::main;"),
        ];
        for (name, begin) in begins {
            let written = write(folder.path(name), &testing::report(), &testing::symbols);
            let bytes = fs::read(written.expect(name)).expect(name);
            assert!(bytes.starts_with(begin), "{name} {}", String::from_utf8_lossy(&bytes));
        }
        assert_eq!(folder.names().len(), begins.len(), "nothing else is left");
    }

    #[test]
    fn an_older_file_is_replaced_whole() {
        let folder = Folder::new("older");
        let path = folder.path("a.txt");
        fs::write(&path, "x".repeat(100_000)).expect("a file");
        write(&path, &Report::of_process(), &NoSymbols).expect("written");
        assert!(fs::read_to_string(&path).expect("a file").starts_with("poolalloc: "));
    }

    #[test]
    fn failures_name_path_and_reason_and_leave_nothing() {
        let folder = Folder::new("failures");
        let file = folder.path("file");
        fs::write(&file, "").expect("a file");
        std::os::unix::fs::symlink("/dev/full", folder.path("full.json")).expect("a link");
        fs::create_dir(folder.path("folder.txt")).expect("a folder");
        for (path, reason) in [
            (folder.path("missing/a.txt"), "No such file or directory (os error 2)"),
            (format!("{file}/a.txt"), "Not a directory (os error 20)"),
            (folder.path("full.json"), "No space left on device (os error 28)"),
            (folder.path("folder.txt"), "Is a directory (os error 21)"),
            (
                folder.path("a.xml"),
                "no format has this ending (txt, json, html, dhat.json, pb.gz, folded)",
            ),
            (
                String::new(),
                "no format has this ending (txt, json, html, dhat.json, pb.gz, folded)",
            ),
        ] {
            let error = write(&path, &testing::report(), &NoSymbols).expect_err(&path);
            assert_eq!(error.to_string(), format!("cannot write report {path}: {reason}"));
        }
        let mut names = folder.names();
        names.sort();
        assert_eq!(names, ["file", "folder.txt", "full.json"]);
    }

    #[test]
    fn names_that_are_not_unicode_stay_as_they_are() {
        let folder = Folder::new("bytes");
        let name = OsString::from_vec(b"\xFF-%p.txt".to_vec());
        let path = write(folder.0.join(name), &testing::report(), &NoSymbols).expect("written");
        assert_eq!(path.file_name().map(OsStrExt::as_bytes), Some(&b"\xFF-4321.txt"[..]));
        assert!(fs::read_to_string(path).expect("a file").starts_with("poolalloc: "));
        assert_eq!(folder.names().len(), 1, "no part is left");
    }

    #[test]
    fn what_others_left_behind_is_passed_by_and_stays() {
        let folder = Folder::new("left");
        let path = folder.path("a.txt");
        // As an earlier process of this number would have left them: those that come next.
        let next = part(Path::new(&path)).expect("a name");
        let next = next.to_string_lossy().into_owned();
        let (before, number) = next.trim_end_matches(".part").rsplit_once('.').expect("a number");
        let number: usize = number.parse().expect("a number");
        let left = |number: usize| format!("{before}.{number}.part");
        // Other tests take numbers too.
        for number in number..number + 200 {
            fs::write(left(number), "not ours").expect("a file");
        }
        write(&path, &Report::of_process(), &NoSymbols).expect("written");
        assert!(fs::read_to_string(&path).expect("a file").starts_with("poolalloc: "));
        for number in number..number + 200 {
            assert_eq!(fs::read_to_string(left(number)).expect("it stays"), "not ours");
        }
        // Where there is no end of them, it says so, and they stay.
        for number in number + 200..number + 3 * TRIES {
            fs::write(left(number), "not ours").expect("a file");
        }
        let error = write(&path, &Report::of_process(), &NoSymbols).expect_err("no room");
        assert!(error.to_string().ends_with("File exists (os error 17)"), "{error}");
        assert_eq!(folder.names().len(), 3 * TRIES + 1);
    }

    #[test]
    fn the_longest_names_are_written() {
        let folder = Folder::new("longest");
        let name = format!("{}.txt", "n".repeat(251));
        let path = write(folder.path(&name), &testing::report(), &NoSymbols).expect("written");
        assert!(fs::read_to_string(path).expect("a file").starts_with("poolalloc: "));
        // One more, and the part of it is gone too.
        let error = write(folder.path(&format!("n{name}")), &testing::report(), &NoSymbols);
        // As the C library calls it.
        let reason = std::io::Error::from_raw_os_error(libc::ENAMETOOLONG).to_string();
        assert!(error.expect_err("too long").to_string().contains(&reason));
        assert_eq!(folder.names(), [name]);
    }

    #[test]
    fn names_of_parts_differ() {
        let path = Path::new("folder/a.txt");
        let [one, other] = [part(path).expect("a name"), part(path).expect("a name")];
        assert_ne!(one, other);
        assert_eq!(one.parent(), path.parent());
        assert!(part(Path::new("/")).is_err());
    }
}
