//! What a figure is worthless without: machine, date, command, versions. No unsafe here.
//!
//! Everything is best effort; what cannot be found out is left out.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use super::suite::{Contender, Source};

/// Facts in the order they are shown: name and text.
pub(crate) type Facts = Vec<(String, String)>;

/// All of them.
pub(crate) fn facts(contenders: &[&Contender], profile: &str, rustflags: &str) -> Facts {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let mut facts: Facts = vec![
        ("date".to_owned(), now.replace('T', " ").replace('Z', " UTC")),
        ("command".to_owned(), command_line(std::env::args_os())),
        ("cargo profile".to_owned(), profile.to_owned()),
    ];
    let mut add = |name: &str, text: Option<String>| {
        facts.extend(text.map(|text| (name.to_owned(), text)));
    };
    add("compiler flags", (!rustflags.is_empty()).then(|| rustflags.to_owned()));
    add("commit", commit(root));
    add("processor", processor());
    add("memory", fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(memory));
    add("kernel", line_of("/proc/sys/kernel/osrelease").map(|release| format!("Linux {release}")));
    add("huge pages", line_of("/sys/kernel/mm/transparent_hugepage/enabled"));
    add("C library", output("getconf", &["GNU_LIBC_VERSION"]));
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    add("compiler", output(&rustc, &["--version"]));
    let lock = fs::read_to_string(root.join("Cargo.lock")).unwrap_or_default();
    for contender in contenders {
        add(contender.name, version(contender, &lock));
    }
    facts
}

/// The arguments as they can be given again, but for bytes that are no text.
fn command_line(mut arguments: impl Iterator<Item = OsString>) -> String {
    arguments.next();
    let mut line = "cargo run --release -p bench".to_owned();
    if cfg!(feature = "peers") {
        line.push_str(" --features peers");
        if cfg!(feature = "peer-gperftools") {
            line.push_str(",peer-gperftools");
        }
    }
    for (index, argument) in arguments.enumerate() {
        line.push_str(if index == 0 { " -- " } else { " " });
        let argument = argument.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=.,/".contains(c);
        if !argument.is_empty() && argument.chars().all(plain) {
            line.push_str(&argument);
        } else {
            line.push_str(&format!("'{}'", argument.replace('\'', r"'\''")));
        }
    }
    line
}

fn commit(root: &Path) -> Option<String> {
    let root = root.to_str()?;
    let commit = output("git", &["-C", root, "rev-parse", "--short=10", "HEAD"])?;
    let changed = output("git", &["-C", root, "status", "--porcelain", "--untracked-files=no"]);
    Some(if changed.is_some() { format!("{commit} with changes") } else { commit })
}

fn processor() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let model = info.lines().find(|line| line.starts_with("model name"))?.split_once(": ")?.1;
    let count = std::thread::available_parallelism().ok()?;
    Some(format!("{model}, {count} usable"))
}

fn memory(meminfo: &str) -> Option<String> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(format!("{:.1} GiB", kib / 1024.0 / 1024.0))
}

fn version(contender: &Contender, lock: &str) -> Option<String> {
    match contender.source {
        Source::System => None,
        Source::Workspace(name) => Some(format!("{name} {}", locked(lock, name)?)),
        Source::Package { name, note, .. } => {
            let version = locked(lock, name).unwrap_or_default();
            let parts = [name, version, note];
            let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            Some(parts.join(" "))
        }
    }
}

/// A package's version in Cargo.lock.
fn locked<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let start = lock.find(&format!("name = \"{package}\"\n"))?;
    let version = lock[start..].lines().nth(1)?.strip_prefix("version = \"")?;
    version.strip_suffix('"')
}

fn line_of(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// The first line a program prints; `None` if it fails or prints nothing.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.success())?;
    let line = String::from_utf8(output.stdout).ok()?.lines().next()?.trim().to_owned();
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::super::suite::SUITES;
    use super::*;

    #[test]
    fn the_command_can_be_given_again() {
        let line = |words: &[&str]| command_line(words.iter().map(OsString::from));
        assert!(line(&["/t/bench"]).starts_with("cargo run --release -p bench"));
        assert!(
            line(&["/t/bench", "--quick", "--only", "a*"]).ends_with(" -- --quick --only 'a*'")
        );
        assert!(line(&["/t/bench", "it's"]).ends_with(r"-- 'it'\''s'"));
    }

    #[test]
    fn an_argument_that_is_no_text_is_shown_as_well_as_it_can_be() {
        let words = [b"bench".to_vec(), b"--html".to_vec(), b"\xff.html".to_vec()];
        let line = command_line(words.into_iter().map(OsString::from_vec));
        assert!(line.ends_with(" -- --html '\u{fffd}.html'"), "{line}");
    }

    #[test]
    fn versions_come_from_the_lock_file() {
        let lock = "[[package]]\nname = \"mimalloc\"\nversion = \"0.1.52\"\n\n\
                    [[package]]\nname = \"alloc-global\"\nversion = \"0.1.0\"\n";
        assert_eq!(locked(lock, "mimalloc"), Some("0.1.52"));
        assert_eq!(locked(lock, "malloc"), None);
        let of = |name: &str| {
            let found = SUITES[0].contenders.iter().find(|one| one.name == name).unwrap();
            version(found, lock)
        };
        assert_eq!(of("mimalloc2").unwrap(), "mimalloc 0.1.52 v2");
        assert_eq!(of("pool").unwrap(), "alloc-global 0.1.0");
        assert_eq!(of("system"), None);
    }

    #[test]
    fn memory_is_read_in_gibibytes() {
        assert_eq!(memory("MemTotal:  25165824 kB\n").unwrap(), "24.0 GiB");
        assert_eq!(memory("MemFree: 1 kB"), None);
    }

    #[test]
    fn date_command_and_compiler_are_always_named() {
        let facts = facts(&[], "release", "");
        for name in ["date", "command", "cargo profile", "compiler", "processor"] {
            let fact = facts.iter().find(|fact| fact.0 == name);
            assert!(fact.is_some_and(|fact| !fact.1.is_empty()), "{name}");
        }
    }
}
