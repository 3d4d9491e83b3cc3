//! The command line. What cannot be understood is an error for stderr, with the usage. No unsafe here.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use glob::Pattern;
use lexopt::prelude::*;

use super::suite::{Contender, Load, SUITES, Suite, kinds};

pub(crate) const USAGE: &str = "\
usage: bench [SUITE] [OPTIONS]

Runs each workload on each allocator or collector, each in its own process, in turn, several
rounds; prints a table and writes a page with plots.

suites:
  alloc               allocators (default)
  gc                  Rc, Gc, and with peers the collectors of others
  watch               PoolAlloc with its instrumentation off, sampling, timing, tracing

options:
  --quick             less work and fewer rounds: under two minutes once built, for two allocators
  --rounds N          rounds (default 5; quick 3, and 2 where three would take too long)
  --only A,B,..       only workloads whose name contains A or B, or matches it as a glob (* ? [..])
  --kind A,B,..       only workloads of these kinds
  --allocators A,B,.. only these (default: all that are switched on)
  --collectors A,B,.. the same; --settings A,B,.. too
  --features peers    also those that others wrote (as cargo's --features peers before the `--`);
                      peer-gperftools: also that allocator, where the system has it
  --seed N            seed of the workloads' data (default 1)
  --timeout SECONDS   limit for one run of one worker (default 120; quick 30)
  --profile NAME      cargo profile of the workers (default release; also lto-thin, lto-off)
  --html PATH         where the page goes (default bench-report.html)
  --no-html           no page
  --json PATH         also write every run's raw figures
  --list              name workloads and allocators, run nothing
  --help              this text
";

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub suite: &'static Suite,
    pub quick: bool,
    pub rounds: Rounds,
    pub loads: Vec<Load>,
    pub contenders: Vec<&'static Contender>,
    /// Features given to the runner itself.
    pub features: Vec<String>,
    pub seed: u64,
    pub timeout: Duration,
    pub profile: String,
    pub html: Option<PathBuf>,
    pub json: Option<PathBuf>,
}

/// How many rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounds {
    Exactly(u32),
    /// At most `most`; at least `least`; between them, none that would end after `budget`.
    Within {
        least: u32,
        most: u32,
        budget: Duration,
    },
}

/// What to do.
#[derive(Debug)]
pub(crate) enum Command {
    Help,
    List(Arguments),
    Run(Arguments),
}

/// Options as they come, before they are held against the suite.
#[derive(Default)]
struct Raw {
    suite: Option<&'static Suite>,
    quick: bool,
    list: bool,
    rounds: Option<u32>,
    only: Vec<String>,
    kinds: Vec<String>,
    contenders: Vec<String>,
    features: Vec<String>,
    seed: Option<u64>,
    timeout: Option<u64>,
    profile: Option<String>,
    html: Option<PathBuf>,
    no_html: bool,
    json: Option<PathBuf>,
}

/// Reads a command line, without the program's name.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut raw = Raw::default();
    let mut parser = lexopt::Parser::from_args(arguments);
    loop {
        match read(&mut parser, &mut raw) {
            Ok(Step::Option) => {}
            Ok(Step::Help) => return Ok(Command::Help),
            Ok(Step::End) => break,
            Err(problem) => return Err(problem.to_string()),
        }
    }
    let list = raw.list;
    let arguments = resolve(raw)?;
    Ok(if list { Command::List(arguments) } else { Command::Run(arguments) })
}

enum Step {
    Option,
    Help,
    End,
}

fn read(parser: &mut lexopt::Parser, raw: &mut Raw) -> Result<Step, lexopt::Error> {
    let Some(argument) = parser.next()? else { return Ok(Step::End) };
    match argument {
        Long("help") | Short('h') => return Ok(Step::Help),
        Long("quick") => raw.quick = true,
        Long("list") => raw.list = true,
        Long("rounds") => raw.rounds = Some(positive(parser)?),
        Long("only") => raw.only.extend(list(parser)?),
        Long("kind") => raw.kinds.extend(list(parser)?),
        Long("allocators" | "collectors" | "settings") => raw.contenders.extend(list(parser)?),
        Long("features") => raw.features.extend(list(parser)?),
        Long("seed") => raw.seed = Some(parser.value()?.parse()?),
        Long("timeout") => raw.timeout = Some(u64::from(positive(parser)?)),
        Long("profile") => raw.profile = Some(parser.value()?.string()?),
        Long("html") => raw.html = Some(parser.value()?.into()),
        Long("no-html") => raw.no_html = true,
        Long("json") => raw.json = Some(parser.value()?.into()),
        Value(name) if raw.suite.is_none() => {
            let found = SUITES.iter().find(|suite| name == suite.name);
            raw.suite = Some(found.ok_or_else(|| format!("no suite {name:?}"))?);
        }
        other => return Err(other.unexpected()),
    }
    Ok(Step::Option)
}

fn positive(parser: &mut lexopt::Parser) -> Result<u32, lexopt::Error> {
    let number: u32 = parser.value()?.parse()?;
    if number == 0 { Err("must be at least 1".into()) } else { Ok(number) }
}

fn list(parser: &mut lexopt::Parser) -> Result<Vec<String>, lexopt::Error> {
    let value = parser.value()?.string()?;
    let parts: Vec<String> = value.split(',').map(|part| part.trim().to_owned()).collect();
    if parts.iter().any(String::is_empty) {
        return Err(format!("an empty name in {value:?}").into());
    }
    Ok(parts)
}

fn resolve(raw: Raw) -> Result<Arguments, String> {
    if raw.html.is_some() && raw.no_html {
        return Err("--html and --no-html exclude each other".to_owned());
    }
    let suite = raw.suite.unwrap_or(SUITES[0]);
    let rounds = match (raw.rounds, raw.quick) {
        (Some(rounds), _) => Rounds::Exactly(rounds),
        (None, false) => Rounds::Exactly(5),
        // Ten seconds are left for the rest of two minutes.
        (None, true) => Rounds::Within { least: 2, most: 3, budget: Duration::from_secs(110) },
    };
    let timeout = raw.timeout.unwrap_or(if raw.quick { 30 } else { 120 });
    let html = raw.html.unwrap_or_else(|| PathBuf::from("bench-report.html"));
    // Told now, not after minutes of work.
    for path in raw.json.iter().chain((!raw.no_html).then_some(&html)) {
        check_target(path)?;
    }
    if let Some(json) = raw.json.as_ref().filter(|_| !raw.no_html)
        && target(json) == target(&html)
    {
        return Err(format!("--json and the page would both be {}", html.display()));
    }
    Ok(Arguments {
        suite,
        quick: raw.quick,
        rounds,
        loads: loads(suite, &raw.only, &raw.kinds)?,
        contenders: contenders(suite, &raw.contenders, &raw.features)?,
        features: raw.features,
        seed: raw.seed.unwrap_or(1),
        timeout: Duration::from_secs(timeout),
        profile: raw.profile.unwrap_or_else(|| "release".to_owned()),
        html: (!raw.no_html).then_some(html),
        json: raw.json,
    })
}

/// Whether a file can be at `path` at all.
fn check_target(path: &Path) -> Result<(), String> {
    let folder = folder(path);
    if !folder.is_dir() {
        return Err(format!("{}: there is no such folder", folder.display()));
    }
    if path.is_dir() || path.file_name().is_none() {
        return Err(format!("{path:?} is no name of a file"));
    }
    Ok(())
}

/// The file that `path` leads to, however it is spelled, be it there or not.
fn target(path: &Path) -> PathBuf {
    let place = || Some(folder(path).canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize().ok().or_else(place).unwrap_or_else(|| path.to_owned())
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn loads(suite: &Suite, only: &[String], wanted_kinds: &[String]) -> Result<Vec<Load>, String> {
    let all = (suite.loads)();
    let known = kinds(&all);
    if let Some(unknown) = wanted_kinds.iter().find(|kind| !known.contains(&kind.as_str())) {
        return Err(format!("no kind {unknown:?}; there are {}", known.join(", ")));
    }
    let mut chosen = vec![only.is_empty(); all.len()];
    for text in only {
        let glob =
            Pattern::new(text).map_err(|problem| format!("in --only {text:?}: {problem}"))?;
        let mut hit = false;
        for (load, chosen) in all.iter().zip(&mut chosen) {
            if load.name.contains(text.as_str()) || glob.matches(load.name) {
                (hit, *chosen) = (true, true);
            }
        }
        if !hit {
            return Err(format!("no workload is named like {text:?}; --list names them"));
        }
    }
    let of_kind =
        |load: &Load| wanted_kinds.is_empty() || wanted_kinds.iter().any(|kind| kind == load.kind);
    let left: Vec<Load> = all
        .into_iter()
        .zip(chosen)
        .filter_map(|(load, chosen)| (chosen && of_kind(&load)).then_some(load))
        .collect();
    if left.is_empty() {
        return Err("no workload is of that name and that kind; --list names them".to_owned());
    }
    Ok(left)
}

fn contenders(
    suite: &Suite,
    names: &[String],
    features: &[String],
) -> Result<Vec<&'static Contender>, String> {
    let word = suite.contender_word;
    let known: Vec<&str> = SUITES
        .iter()
        .flat_map(|suite| suite.contenders)
        .filter_map(|contender| contender.source.switch())
        .collect();
    if let Some(unknown) = features.iter().find(|feature| !known.contains(&feature.as_str())) {
        return Err(format!("no feature {unknown:?} brings contenders; {:?} does", known[0]));
    }
    for name in names {
        let Some(found) = suite.contenders.iter().find(|contender| contender.name == name) else {
            let known: Vec<&str> = suite.contenders.iter().map(|one| one.name).collect();
            return Err(format!("no {word} {name:?}; there are {}", known.join(", ")));
        };
        if let Some(feature) = found.missing(features) {
            return Err(format!("{name} needs --features {feature}"));
        }
    }
    let wanted = |contender: &&Contender| {
        contender.missing(features).is_none()
            && (names.is_empty() || names.iter().any(|name| name == contender.name))
    };
    Ok(suite.contenders.iter().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn run(line: &str) -> Arguments {
        match command(line) {
            Ok(Command::Run(arguments)) => arguments,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn names(line: &str) -> Vec<&'static str> {
        run(line).loads.iter().map(|load| load.name).collect()
    }

    #[test]
    fn nothing_asked_for_means_everything_present_five_times() {
        let arguments = run("");
        assert_eq!(arguments.suite.name, "alloc");
        assert_eq!(arguments.rounds, Rounds::Exactly(5));
        assert_eq!(arguments.seed, 1);
        assert_eq!(arguments.profile, "release");
        assert_eq!(arguments.html, Some(PathBuf::from("bench-report.html")));
        assert_eq!(arguments.json, None);
        assert_eq!(arguments.loads.len(), (arguments.suite.loads)().len());
        let first: Vec<&str> = arguments.contenders.iter().take(2).map(|one| one.name).collect();
        assert_eq!(first, ["system", "pool"]);
    }

    #[test]
    fn quick_has_a_budget_that_given_rounds_override() {
        assert!(matches!(run("--quick").rounds, Rounds::Within { least: 2, most: 3, .. }));
        assert_eq!(run("--quick --rounds 7").rounds, Rounds::Exactly(7));
        assert!(run("--quick").quick);
        assert_eq!(run("--quick").timeout, Duration::from_secs(30));
        assert_eq!(run("--timeout=5").timeout, Duration::from_secs(5));
    }

    #[test]
    fn the_first_free_argument_is_the_suite() {
        assert_eq!(run("alloc --seed 9").seed, 9);
        assert!(command("alloc alloc").is_err());
        assert!(command("nonsense").unwrap_err().contains("no suite"));
    }

    #[test]
    fn only_takes_parts_of_names_and_globs() {
        let all: Vec<&str> = (SUITES[0].loads)().iter().map(|load| load.name).collect();
        let first = all[0];
        assert_eq!(names(&format!("--only {first}"))[0], first);
        assert_eq!(names("--only *"), all);
        let start = &first[..3];
        let expected: Vec<&str> = all.iter().copied().filter(|n| n.starts_with(start)).collect();
        assert_eq!(names(&format!("--only {start}*[!*]")).len(), expected.len());
        assert!(command("--only no-such-load").unwrap_err().contains("no-such-load"));
        assert!(command("--only [").is_err());
        assert!(command("--only a,,b").is_err());
    }

    #[test]
    fn kinds_are_checked_and_chosen() {
        let loads = run("--kind micro").loads;
        assert!(!loads.is_empty() && loads.iter().all(|load| load.kind == "micro"));
        assert!(command("--kind mikro").unwrap_err().contains("micro"));
    }

    #[test]
    fn allocators_come_in_the_suites_order() {
        let arguments = run("--allocators pool,system");
        let names: Vec<&str> = arguments.contenders.iter().map(|one| one.name).collect();
        assert_eq!(names, ["system", "pool"]);
        assert!(command("--allocators poll").unwrap_err().contains("pool"));
    }

    #[test]
    fn an_allocator_outside_this_build_names_the_feature() {
        if !cfg!(feature = "peers") {
            let problem = command("--allocators mimalloc2").unwrap_err();
            assert!(problem.contains("--features peers"), "{problem}");
        }
    }

    #[test]
    fn peers_take_part_by_a_feature_on_either_side() {
        let word = |line: &str| run(line).contenders.iter().map(|one| one.name).collect::<Vec<_>>();
        let all = word("gc --features peers");
        assert_eq!(all[..3], ["rc", "gc", "dumpster"]);
        assert_eq!(all.len(), 7);
        assert_eq!(word("gc --features=peers --collectors boa_gc,gc"), ["gc", "boa_gc"]);
        let named = word("gc --features=peers --collectors bacon_rajan_cc");
        assert_eq!(named, ["bacon_rajan_cc"]);
        assert!(word("--features peers").contains(&"mimalloc"));
        if !cfg!(feature = "peers") {
            assert_eq!(word("gc"), ["rc", "gc"]);
        }
        assert!(command("gc --features pears").unwrap_err().contains("peers"));
    }

    #[test]
    fn the_suite_of_collectors_has_its_own_workloads() {
        assert!(names("gc").contains(&"rings") && !names("gc").contains(&"replace-10k"));
        assert_eq!(names("gc --kind real"), ["interpreter"]);
        assert!(command("gc --kind threads").is_err());
        assert!(command("gc --allocators pool").unwrap_err().contains("no collector"));
        assert!(matches!(run("gc --quick").rounds, Rounds::Within { .. }));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for line in [
            "gc alloc",
            "--features",
            "--collectors",
            "--fast",
            "-q",
            "--rounds",
            "--rounds 0",
            "--rounds x",
            "--rounds -1",
            "--seed 1.5",
            "--quick=yes",
            "--timeout 0",
            "--html a --no-html",
            "--kind",
            "--html no/such/folder/page.html",
            "--json /",
            "--html=",
            "--json one --html one",
            "--json ./one --html src/../one",
            "--json bench-report.html",
            "--json ./Cargo.toml --html Cargo.toml",
        ] {
            assert!(command(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_page_and_the_figures_are_two_files() {
        assert!(command("--json one --html one").unwrap_err().contains("both be one"));
        assert_eq!(run("--json one --html src/one").json, Some(PathBuf::from("one")));
        assert!(run("--json bench-report.html --no-html").html.is_none());
    }

    #[test]
    fn help_and_list_run_nothing() {
        assert!(matches!(command("--quick --help"), Ok(Command::Help)));
        assert!(matches!(command("-h"), Ok(Command::Help)));
        assert!(matches!(command("--list"), Ok(Command::List(_))));
    }

    #[test]
    fn the_usage_names_every_suite() {
        for suite in SUITES {
            assert!(USAGE.contains(&format!("\n  {} ", suite.name)));
        }
    }
}
