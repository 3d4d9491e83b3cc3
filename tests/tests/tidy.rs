//! The rules of the repository that a program can check.
//!
//! | rule | why |
//! |---|---|
//! | a source file has at most 550 lines | what is longer is not read whole |
//! | it opens with `//!` | a reader starts at the file |
//! | no ignored test, no note for later, no blanket `allow` | each would rot where nobody looks |
//! | no path of a machine | the repository must mean the same everywhere |
//! | "No unsafe here" is true | the audited part must be known |
//! | alloc-core's modules use only what lies above them | the layers of ARCHITECTURE.md |
//! | the table of settings names those that are read | it is kept twice, for users and for whoever reads the code |
//! | nothing in alloc-global calls the C library's mathematics | one call, and every program that uses the allocator loads it |
//!
//! Each rule is a function from a file to its breaches, and each has a test that feeds it a breach.
//! No unsafe here.

use std::fs;
use std::path::{Path, PathBuf};

use alloc_global::PoolAlloc;

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

/// Longest source file, in lines.
const LONGEST: usize = 550;

/// Modules of alloc-core, the topmost layer first: each may use only those before it, and its own parts.
/// A file whose name is not here is a breach: name its layer.
const LAYERS: &[&str] = &[
    "size_class",
    "layout_math",
    "errno",
    "page_source",
    "list",
    "chunk",
    "arena",
    "arenas",
    "free_bits",
    "pool",
    "bin",
    "walk",
    "heap",
];

/// Pairs of modules that know each other: the header of a chunk lies in its first arena, and an
/// arena names its chunk.
const TWINS: &[(&str, &str)] = &[("chunk", "arena")];

/// The keyword, in two parts, so that this file keeps the rule that it has none.
const KEYWORD: &str = concat!("un", "safe");

/// A file under the root, by its path from there.
struct Source {
    path: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace's folder").to_owned()
}

/// Every file with one of these extensions, or named in full, that is part of the repository.
fn files(wanted: &[&str]) -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder").map(|e| e.expect("an entry"))
        {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().expect("a kind of file");
            let generated = ["target", ".git", "corpus", "artifacts"].contains(&name.as_str());
            if kind.is_dir() && !generated {
                folders.push(path);
            } else if kind.is_file() && wanted.iter().any(|end| name.ends_with(end)) {
                let text = String::from_utf8_lossy(&fs::read(&path).expect("a readable file"))
                    .into_owned();
                let path = path.strip_prefix(&root).expect("below the root");
                found.push(Source { path: path.to_string_lossy().into_owned(), text });
            }
        }
    }
    assert!(!found.is_empty(), "nothing of {wanted:?} below {root:?}");
    found
}

/// Source files of programs; data that a workload reads is not ours to tidy.
fn sources() -> Vec<Source> {
    let mut sources = files(&[".rs"]);
    sources.retain(|source| !source.path.contains("/data/"));
    assert!(sources.len() > 20, "only {} source files found", sources.len());
    sources
}

fn assert_none(breaches: Vec<String>) {
    assert!(breaches.is_empty(), "{} breaches:\n{}", breaches.len(), breaches.join("\n"));
}

/// Applies a rule for single files to all of them.
fn hold(sources: Vec<Source>, rule: fn(&Source) -> Vec<String>) {
    assert_none(sources.iter().flat_map(rule).collect());
}

fn at(source: &Source, line: usize, what: &str) -> String {
    format!("{}:{}: {what}", source.path, line + 1)
}

fn length(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    let over = lines > LONGEST;
    over.then(|| format!("{}: {lines} lines, more than {LONGEST}", source.path))
        .into_iter()
        .collect()
}

fn opening(source: &Source) -> Vec<String> {
    let said = source.text.starts_with("//! ");
    (!said).then(|| at(source, 0, "does not open with `//! `")).into_iter().collect()
}

/// Words that may stand nowhere in a source file. Written in two parts, so that this file keeps the rule.
const FORBIDDEN: &[(&str, &str)] = &[
    ("#[", "ignore"),
    ("todo", "!("),
    ("unimplemented", "!("),
    ("TO", "DO"),
    ("FIX", "ME"),
    ("XX", "X"),
    ("#[al", "low("),
    ("#![al", "low("),
    ("dbg", "!("),
];

/// Derives write code into other people's crates, where only `allow` keeps lints quiet that may or
/// may not fire.
const WRITES_CODE: &str = "rc-gc/derive/src/";

fn words(source: &Source) -> Vec<String> {
    let writes_code = source.path.starts_with(WRITES_CODE);
    let forbidden = FORBIDDEN
        .iter()
        .map(|(front, back)| format!("{front}{back}"))
        .filter(|word| !(writes_code && word.starts_with('#') && word.ends_with("low(")));
    find_all(source, &forbidden.collect::<Vec<_>>(), "is not for a source file")
}

/// Folders that exist on one machine only.
const MACHINES: &[(&str, &str)] =
    &[("/wor", "k/"), ("/ro", "ot/"), ("/ho", "me/"), ("/Us", "ers/"), ("/tm", "p/bash")];

fn machines(source: &Source) -> Vec<String> {
    let folders = MACHINES.iter().map(|(front, back)| format!("{front}{back}"));
    find_all(source, &folders.collect::<Vec<_>>(), "is a path of one machine")
}

fn find_all(source: &Source, words: &[String], what: &str) -> Vec<String> {
    let lines = source.text.lines().enumerate();
    lines
        .flat_map(|(number, line)| {
            let found = words.iter().filter(move |word| line.contains(word.as_str()));
            found.map(move |word| at(source, number, &format!("`{word}` {what}")))
        })
        .collect()
}

/// Code without comments: what stands after `//` counts as one.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or("")
}

fn safe_files(source: &Source) -> Vec<String> {
    let head: String = source.text.lines().take_while(|line| line.starts_with("//!")).collect();
    if !head.contains(&format!("No {KEYWORD} here")) {
        return Vec::new();
    }
    let lines = source.text.lines().enumerate().filter(|(_, line)| has_keyword(line));
    lines
        .map(|(number, _)| at(source, number, &format!("{KEYWORD}, although its head says no")))
        .collect()
}

/// Files of the three crates that users depend on have the keyword in their code only if
/// ARCHITECTURE.md names them.
fn listed_files(source: &Source, listed: &str) -> Vec<String> {
    let module = ["alloc-core/src/", "alloc-global/src/", "rc-gc/src/"]
        .iter()
        .find_map(|crate_| source.path.strip_prefix(crate_)?.strip_suffix(".rs"));
    let Some(module) = module.filter(|name| !name.ends_with("tests")) else { return Vec::new() };
    let code_alone = source.text.split("#[cfg(test)]").next().unwrap_or("");
    // By its name, or by that and the folders it is in.
    let names = module.char_indices().filter(|(_, c)| *c == '/').map(|(at, _)| &module[at + 1..]);
    let is_listed = |name: &str| listed.contains(&format!("`{name}`"));
    if !code_alone.lines().any(has_keyword) || is_listed(module) || names.into_iter().any(is_listed)
    {
        return Vec::new();
    }
    vec![format!("{}: {KEYWORD}, but not in ARCHITECTURE.md's list", source.path)]
}

/// Whether a line of code has the keyword. An attribute such as `link_section` is written as a call
/// of it: it does no such thing itself.
fn has_keyword(line: &str) -> bool {
    let line = code(line).replace(&format!("{KEYWORD}("), "");
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == KEYWORD)
}

/// The layer a file of alloc-core belongs to: `src/page_source/os.rs` and `src/heap_tests.rs` are
/// parts of theirs.
fn layer(path: &str) -> Option<usize> {
    let name = path.strip_prefix("alloc-core/src/")?.split(['/', '.']).next()?;
    let name = name.strip_suffix("_tests").unwrap_or(name);
    LAYERS.iter().position(|layer| *layer == name)
}

fn layers(source: &Source) -> Vec<String> {
    let tests = source.path.ends_with("tests.rs") || source.path.ends_with("lib.rs");
    if !source.path.starts_with("alloc-core/src/") || tests {
        return Vec::new();
    }
    let Some(own) = layer(&source.path) else {
        return vec![format!("{}: no layer; name it in LAYERS", source.path)];
    };
    let mut breaches = Vec::new();
    let code = source.text.split("#[cfg(test)]").next().unwrap_or("");
    for (number, line) in code.lines().enumerate() {
        for used in self::code(line).split("crate::").skip(1) {
            let name = used.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("");
            let Some(other) = LAYERS.iter().position(|layer| *layer == name) else { continue };
            let twins =
                TWINS.contains(&(LAYERS[own], name)) || TWINS.contains(&(name, LAYERS[own]));
            if other > own && !twins {
                breaches.push(at(source, number, &format!("{} uses {name} below it", LAYERS[own])));
            }
        }
    }
    breaches
}

/// Methods of `f64` that are functions of the C library's part for mathematics, which is a file of
/// its own. The crate libm has them too.
const FAR: &[&str] = &[
    "acos", "asin", "atan", "atan2", "cbrt", "cos", "cosh", "exp", "exp2", "exp_m1", "gamma",
    "hypot", "ln", "ln_1p", "log", "log10", "log2", "powf", "sin", "sinh", "tan", "tanh",
];

fn mathematics(source: &Source) -> Vec<String> {
    let of_programs = source.path.starts_with("alloc-global/src/")
        && !source.path.contains("/bin/")
        && !source.path.ends_with("tests.rs");
    if !of_programs {
        return Vec::new();
    }
    let calls: Vec<String> = FAR.iter().map(|name| format!(".{name}(")).collect();
    let text = source.text.split("#[cfg(test)]").next().unwrap_or("").to_owned();
    find_all(
        &Source { path: source.path.clone(), text },
        &calls,
        "loads the C library's mathematics",
    )
}

#[test]
fn the_allocator_loads_no_mathematics() {
    hold(sources(), mathematics);
}

#[test]
fn source_files_are_short_enough_to_read() {
    hold(sources(), length);
}

#[test]
fn source_files_open_with_what_they_are() {
    hold(sources(), opening);
}

#[test]
fn nothing_is_ignored_left_for_later_or_allowed() {
    hold(sources(), words);
}

#[test]
fn no_file_names_a_folder_of_one_machine() {
    let mut texts = files(&[".md", ".toml", ".yml", "run"]);
    texts.extend(sources());
    hold(texts, machines);
}

#[test]
fn files_that_say_they_have_no_unsafe_have_none() {
    hold(sources(), safe_files);
}

#[test]
fn the_map_names_every_file_with_unsafe() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let (_, list) = map.split_once("## Unsafe").expect("a section");
    let (list, _) = list.split_once("\n## ").expect("a section behind it");
    assert_none(sources().iter().flat_map(|source| listed_files(source, list)).collect());
}

/// Names of the settings that the rows of a table begin with, sorted.
fn settings(text: &str) -> Vec<&str> {
    let rows = text.lines().map(|line| line.trim_start_matches("//! "));
    let names = rows.filter_map(|row| row.strip_prefix("| `POOLALLOC_")?.split('`').next());
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names
}

#[test]
fn settings_are_documented_as_they_are_read() {
    let read = |path| fs::read_to_string(root().join(path)).expect("a readable file");
    let (code, page) = (read("alloc-global/src/config.rs"), read("docs/settings.md"));
    let names = settings(&page);
    assert!(names.len() > 5 && names == settings(&code), "{names:?} {:?}", settings(&code));
    let unread = |name: &&&str| !code.contains(&format!("b\"{name}\""));
    assert_eq!(names.iter().find(unread), None, "nothing in config.rs reads it");
    assert_eq!(settings("//! | `POOLALLOC_B` | x |\n| `POOLALLOC_A` | y |\n| `C` |"), ["A", "B"]);
}

#[test]
fn layers_use_only_what_lies_above_them() {
    hold(sources(), layers);
}

/// Names of the optional features of a manifest.
fn features(manifest: &str) -> Vec<String> {
    let section = manifest.split("\n[features]\n").nth(1).unwrap_or("");
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    let named = lines.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.to_owned());
    named.filter(|name| name != "default" && !name.starts_with('#')).collect()
}

#[test]
fn every_optional_feature_is_known_to_the_checks() {
    let checks = fs::read_to_string(root().join(".ci/run")).expect(".ci/run");
    let mut unknown = Vec::new();
    for manifest in files(&["Cargo.toml"]) {
        let package =
            manifest.text.split("name = \"").nth(1).and_then(|rest| rest.split('"').next());
        for feature in features(&manifest.text) {
            let name = format!("{}/{feature}", package.unwrap_or(""));
            if !checks.contains(&name) {
                unknown.push(format!("{}: .ci/run does not name {name}", manifest.path));
            }
        }
    }
    assert_none(unknown);
    assert_eq!(features("[a]\n[features]\nb = []\n# c = d\ndefault = []\n[e]\nf = 1\n"), ["b"]);
}

#[test]
fn every_layer_has_its_file() {
    let sources = sources();
    for name in LAYERS {
        let path = format!("alloc-core/src/{name}.rs");
        assert!(
            sources.iter().any(|source| source.path == path),
            "{path} is gone: strike its layer"
        );
    }
}

#[test]
fn every_rule_notices_a_breach() {
    let file = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
    let breaks = |rule: fn(&Source) -> Vec<String>, path: &str, text: &str| {
        !rule(&file(path, text)).is_empty()
    };
    assert!(breaks(length, "a.rs", &"\n".repeat(LONGEST + 1)));
    assert!(!breaks(length, "a.rs", &"\n".repeat(LONGEST)));
    assert!(breaks(opening, "a.rs", "use std::fs;"));
    assert!(!breaks(opening, "a.rs", "//! Files."));
    for (front, back) in FORBIDDEN {
        assert!(breaks(words, "a.rs", &format!("//! A.\n{front}{back}")), "{front}{back}");
    }
    for (front, back) in MACHINES {
        assert!(breaks(machines, "a.md", &format!("see {front}{back}file")));
    }
    let head = "//! No unsafe here.";
    assert!(breaks(safe_files, "a.rs", &format!("{head}\nlet a = {KEYWORD} {{ b() }};")));
    assert!(breaks(safe_files, "a.rs", &format!("{head}\n{KEYWORD} fn b();")));
    assert!(!breaks(safe_files, "a.rs", &format!("{head}\n#[{KEYWORD}(no_mangle)] // {KEYWORD}")));
    assert!(!breaks(safe_files, "a.rs", &format!("//! Pointers.\nlet a = {KEYWORD} {{ b() }};")));
    let unlisted =
        |path: &str, text: &str| !listed_files(&file(path, text), "`b`, `c/d`").is_empty();
    let block = format!("{KEYWORD} {{ b() }};");
    for (path, expected) in [("rc-gc/src/a.rs", true), ("alloc-core/src/b.rs", false)] {
        assert_eq!(unlisted(path, &block), expected, "{path}");
        assert!(!unlisted(path, "safe();"), "{path}");
    }
    assert!(
        !unlisted("alloc-global/src/x/c/d.rs", &block) && unlisted("alloc-global/src/d.rs", &block)
    );
    assert!(breaks(mathematics, "alloc-global/src/a.rs", "let far = near.hypot(high);"));
    assert!(!breaks(mathematics, "alloc-global/src/a.rs", "let far = near.sqrt();"));
    assert!(!breaks(mathematics, "alloc-global/src/a.rs", "#[cfg(test)]\nlet far = near.exp();"));
    assert!(!breaks(mathematics, "bench/src/a.rs", "let far = near.hypot(high);"));
    let core = "alloc-core/src/";
    assert!(breaks(layers, &format!("{core}list.rs"), "use crate::heap::Heap;"));
    assert!(breaks(layers, &format!("{core}page_source/os.rs"), "let a = crate::arena::B;"));
    assert!(breaks(layers, &format!("{core}unheard_of.rs"), ""));
    assert!(!breaks(layers, &format!("{core}heap.rs"), "use crate::list::List;"));
    assert!(!breaks(layers, &format!("{core}list.rs"), "// crate::heap is far away"));
}
