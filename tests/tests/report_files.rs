//! Report files where they cannot be written: a full disk, a folder that is read-only, a limit on
//! the size of files.
//!
//! Each case is a process of its own, since limits and rights are a process's. In each the program
//! must say one line, go on, and leave nothing but whole files behind.
//!
//! Unsafe here: calls of the C library that set limits and rights.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use alloc_global::PoolAlloc;
use alloc_global::report::{self, NoSymbols, Report, example};
use tests::cases::{self, Case, run_self};

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

/// Names the folder of a case in the process that it starts.
const FOLDER: &str = "REPORT_FILES_FOLDER";

fn main() -> ExitCode {
    cases::main(&[
        Case::new(FULL, full),
        Case::new(LIMITED, limited),
        Case::new(READ_ONLY, read_only),
        Case::new(CLOSED, closed),
        Case::new(SCREEN, screen),
        Case::new("threads_that_write_one_file_leave_one_whole_file", threads),
        Case::new("a_named_pipe_is_written_to_and_stays_a_pipe", pipe),
    ])
}

const FULL: &str = "a_full_disk_is_one_line_and_the_program_goes_on";
const LIMITED: &str = "a_file_that_may_not_grow_is_not_left_half_written";
const READ_ONLY: &str = "a_folder_that_is_read_only_is_one_line";
const CLOSED: &str = "without_a_standard_error_nothing_is_said_and_nothing_breaks";

const SCREEN: &str = "the_template_1_is_a_screen_on_standard_error";

/// A folder for one case, gone at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let folder = std::env::temp_dir().join(format!("report-files-{}", std::process::id()));
        fs::create_dir(&folder).expect("a folder");
        Folder(folder)
    }

    fn names(&self) -> Vec<String> {
        let entries =
            fs::read_dir(&self.0).expect("a folder").map(|entry| entry.expect("an entry"));
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs `body` with the folder's path in a process of its own, and returns what that said on
/// standard error.
fn in_child(case: &str, folder: &Folder, body: fn(&str)) -> String {
    let path = folder.0.to_str().expect("a path in Unicode");
    if let Ok(folder) = std::env::var(FOLDER) {
        body(&folder);
        // What says that the program went on.
        println!("alive");
        std::process::exit(0);
    }
    let output = run_self(&["--case", case], &[(FOLDER, path)], Duration::from_secs(60));
    assert!(output.status.is_some_and(|status| status.success()), "{}", output.stderr);
    assert_eq!(output.stdout, "alive\n");
    output.stderr
}

/// The folder, unless this is the process that works in it.
fn folder() -> Folder {
    match std::env::var(FOLDER) {
        Ok(path) => {
            // Its maker removes it: the process ends before this is dropped.
            Folder(PathBuf::from(path))
        }
        Err(_) => Folder::new(),
    }
}

fn write(path: &str) -> bool {
    report::write_or_say(path, &example::report(), &example::symbols)
}

fn full() {
    let folder = folder();
    let said = in_child(FULL, &folder, |folder| {
        let path = format!("{folder}/full.json");
        std::os::unix::fs::symlink("/dev/full", &path).expect("a link");
        assert!(!write(&path));
        assert!(write(&format!("{folder}/other.json")), "the next one is not affected");
    });
    let path = folder.0.join("full.json");
    let reason = "No space left on device (os error 28)";
    assert_eq!(said, format!("poolalloc: cannot write report {}: {reason}\n", path.display()));
    assert_eq!(folder.names(), ["full.json", "other.json"]);
}

fn limited() {
    let folder = folder();
    let said = in_child(LIMITED, &folder, |folder| {
        let old = format!("{folder}/old.json");
        fs::write(&old, "what was there before").expect("a file");
        // SAFETY: no memory is involved. Without this a file that is too long ends the process.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        let limit = libc::rlimit { rlim_cur: 10_000, rlim_max: 10_000 };
        // SAFETY: the structure is initialised and outlives the call.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) }, 0);
        assert!(!write(&old));
        assert!(!write(&format!("{folder}/new.html")));
        assert!(write(&format!("{folder}/small.txt")));
    });
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    for (line, name) in lines.iter().zip(["old.json", "new.html"]) {
        let path = folder.0.join(name);
        let reason = "File too large (os error 27)";
        assert_eq!(*line, format!("poolalloc: cannot write report {}: {reason}", path.display()));
    }
    assert_eq!(folder.names(), ["old.json", "small.txt"], "no part of a file is left");
    let old = fs::read_to_string(folder.0.join("old.json")).expect("a file");
    assert_eq!(old, "what was there before");
}

fn read_only() {
    let folder = folder();
    if std::env::var(FOLDER).is_err() {
        let mut rights = fs::metadata(&folder.0).expect("a folder").permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut rights, 0o555);
        fs::set_permissions(&folder.0, rights).expect("our own folder");
    }
    let said = in_child(READ_ONLY, &folder, |folder| {
        // Root may write anywhere: it becomes nobody. For anybody else the call fails, and changes nothing.
        // SAFETY: no memory is involved.
        let _ = unsafe { libc::setuid(65_534) };
        assert!(!write(&format!("{folder}/a.json")));
    });
    let path = folder.0.join("a.json");
    let reason = "Permission denied (os error 13)";
    assert_eq!(said, format!("poolalloc: cannot write report {}: {reason}\n", path.display()));
    assert!(folder.names().is_empty());
}

fn closed() {
    let folder = folder();
    let said = in_child(CLOSED, &folder, |folder| {
        // SAFETY: nothing else in this process uses the descriptor by its number.
        assert_eq!(unsafe { libc::close(libc::STDERR_FILENO) }, 0);
        assert!(!write(&format!("{folder}/missing/a.json")));
        assert!(!report::write_or_say("1", &Report::of_process(), &NoSymbols));
        assert!(write(&format!("{folder}/a.txt")));
    });
    assert_eq!(said, "");
    assert_eq!(folder.names(), ["a.txt"]);
}

fn screen() {
    let folder = folder();
    let said = in_child(SCREEN, &folder, |_| assert!(write("1")));
    assert_eq!(said, report::text(&example::report(), &example::symbols));
    assert!(folder.names().is_empty());
}

fn threads() {
    let folder = Folder::new();
    let path = folder.0.join("a.json").to_string_lossy().into_owned();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..5).for_each(|_| assert!(write(&path))));
        }
    });
    assert_eq!(folder.names(), ["a.json"]);
    let whole = report::json(&example::report(), &example::symbols);
    assert!(fs::read_to_string(&path).expect("a file") == whole);
}

fn pipe() {
    let folder = Folder::new();
    let path = folder.0.join("a.txt");
    let name = std::ffi::CString::new(path.to_str().expect("Unicode")).expect("no zero in it");
    // SAFETY: a text that ends in a zero and outlives the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let reader = std::thread::spawn({
        let path = path.clone();
        move || fs::read_to_string(path).expect("what comes through the pipe")
    });
    assert!(write(path.to_str().expect("Unicode")));
    let text = reader.join().expect("the reader ends");
    assert_eq!(text, report::text(&example::report(), &example::symbols));
    let kind = fs::metadata(&path).expect("it is still there").file_type();
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&kind));
}
