//! Baselines: counts in a file `baselines/NAME.txt` beside a test's source, a line per count.
//!
//! ```text
//! allocs 10
//! reallocs 0
//! alloc_bytes 240
//! live_blocks 10
//! peak_bytes 240
//! ```
//!
//! More than it says fails; less passes, and a line on standard error says so.
//! `POOLALLOC_UPDATE_BASELINE=1` writes it anew. A file is written whole or not at all.
//!
//! No unsafe here.

use super::rows;
use crate::measure::Measured;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The variable that has baselines written anew.
pub(super) const UPDATE: &str = "POOLALLOC_UPDATE_BASELINE";

/// Counts that a baseline holds: those that a change for the worse raises.
pub(super) const IN_BASELINE: [&str; 5] =
    ["allocs", "reallocs", "alloc_bytes", "live_blocks", "peak_bytes"];

pub(super) fn baseline_text(stats: &Measured) -> String {
    let mut text = String::new();
    for (name, value) in rows(stats).iter().filter(|(name, _)| IN_BASELINE.contains(name)) {
        let _ = writeln!(text, "{name} {value}");
    }
    text
}

/// The file of a baseline. The compiler names a source file from where it was started, which may be
/// the package or a folder around it.
pub(super) fn baseline_file(name: &str, package: &Path, source: &Path) -> Result<PathBuf, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(format!("baseline {name:?}: letters, digits, `-`, `_` and `.` make a name"));
    }
    let mut sources = package.ancestors().map(|folder| folder.join(source));
    let Some(found) = sources.find(|path| path.is_file()) else {
        return Err(format!("baseline {name}: {} is not there any more", source.display()));
    };
    let folder = found.parent().unwrap_or(package).join("baselines");
    Ok(folder.join(format!("{name}.txt")))
}

/// Compares counts with a baseline, or writes it. A note for the reader if it was written, or could
/// be lower.
pub(super) fn judge_baseline(
    file: &Path,
    stats: &Measured,
    update: bool,
) -> Result<Option<String>, String> {
    let shown = file.display();
    if update {
        let folder = file.parent().unwrap_or(Path::new("."));
        let written =
            fs::create_dir_all(folder).and_then(|()| replace(file, &baseline_text(stats)));
        return match written {
            Ok(()) => Ok(Some(format!("wrote {shown}"))),
            Err(error) => Err(format!("cannot write {shown}: {error}")),
        };
    }
    let text = fs::read_to_string(file)
        .map_err(|error| format!("cannot read {shown}: {error}; {UPDATE}=1 writes it"))?;
    compare(&text, stats)
        .map(|lower| lower.map(|lower| format!("{lower}; {UPDATE}=1 lowers {shown}")))
        .map_err(|breach| format!("{breach} ({shown}; {UPDATE}=1 writes it anew)"))
}

/// Writes a file whole or not at all.
fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    let part = file.with_extension(format!("txt.{}", std::process::id()));
    fs::write(&part, text).and_then(|()| fs::rename(&part, file)).inspect_err(|_| {
        // What is left of it is of no use; that it may stay behind is the lesser evil.
        let _ = fs::remove_file(&part);
    })
}

/// Compares counts with the text of a baseline: an error where one is above it, else which are below.
pub(super) fn compare(text: &str, stats: &Measured) -> Result<Option<String>, String> {
    let mut lower = Vec::new();
    let mut higher = Vec::new();
    let mut seen = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (name, value) = line.trim().split_once(' ').unwrap_or((line, ""));
        let now = rows(stats).iter().find(|row| row.0 == name).map(|row| row.1);
        let (Some(now), Ok(value)) = (now, value.trim().parse::<u64>()) else {
            return Err(format!("a baseline has lines `count number`, not {line:?}"));
        };
        seen.push(name);
        if now > value {
            higher.push(format!("{name} {now} above {value}"));
        } else if now < value {
            lower.push(format!("{name} {now} below {value}"));
        }
    }
    if let Some(missing) = IN_BASELINE.iter().find(|name| !seen.contains(name)) {
        return Err(format!("the baseline has no line for {missing}"));
    }
    if higher.is_empty() {
        Ok((!lower.is_empty()).then(|| lower.join(", ")))
    } else {
        Err(higher.join(", "))
    }
}
