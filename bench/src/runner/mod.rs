//! The runner, from the command line to the exit code. No unsafe here.
//!
//! ```text
//! arguments -> build -> schedule (process, ...) -> summary (statistics) -> grid -> table
//!                                              \-> raw (JSON)            \-> html (chart)
//! ```
//!
//! Exit codes: 0; 1 if something failed or was wrong; 2 for a command line not understood.

mod arguments;
mod build;
mod chart;
mod grid;
mod html;
mod machine;
mod process;
mod raw;
mod schedule;
mod statistics;
mod suite;
mod summary;
mod table;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use arguments::{Arguments, Command, USAGE};
use machine::Facts;
use schedule::Runs;
use summary::Summary;

/// Does what the command line asks for.
pub(crate) fn run() -> ExitCode {
    match arguments::parse(std::env::args_os().skip(1)) {
        Ok(Command::Help) => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        Ok(Command::List(arguments)) => {
            list(&arguments);
            ExitCode::SUCCESS
        }
        Ok(Command::Run(arguments)) => match compare(&arguments) {
            Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
            Ok(problems) => {
                eprintln!("\n{} problems:", problems.len());
                for problem in problems {
                    eprintln!("  {problem}");
                }
                ExitCode::FAILURE
            }
            Err(problem) => {
                eprintln!("bench: {problem}");
                ExitCode::FAILURE
            }
        },
        Err(problem) => {
            eprint!("bench: {problem}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn list(arguments: &Arguments) {
    let contenders = arguments.suite.contenders;
    println!("{}s:", arguments.suite.contender_word);
    let width = contenders.iter().map(|contender| contender.name.len()).max().unwrap_or(0);
    for contender in contenders {
        let missing = contender
            .missing(&arguments.features)
            .map(|feature| format!("needs --features {feature}"));
        let line = format!("  {:<width$}  {}", contender.name, missing.unwrap_or_default());
        println!("{}", line.trim_end());
    }
    println!("workloads:");
    let width = arguments.loads.iter().map(|load| load.name.len()).max().unwrap_or(0);
    for load in &arguments.loads {
        println!("  {:<8} {:<width$}  {} (per {})", load.kind, load.name, load.about, load.unit);
    }
}

/// Builds, runs, shows; returns the problems found on the way.
fn compare(arguments: &Arguments) -> Result<Vec<String>, String> {
    let rustflags = arguments.suite.rustflags;
    let left_out = left_out();
    let workers = build::build(&arguments.contenders, &arguments.profile, rustflags)?;
    let facts = machine::facts(&arguments.contenders, &arguments.profile, rustflags);
    let runs = schedule::measure(arguments, &workers, &left_out);
    let summary = Summary::of(arguments.suite, &arguments.contenders, &arguments.loads, &runs);
    print!("{}", table::render(&summary));
    Ok(save(arguments, &summary, &facts, &runs))
}

/// What workers do not get of the runner's environment; told on stderr, as it may surprise.
fn left_out() -> Vec<OsString> {
    let names = process::settings(std::env::vars_os().map(|(name, _)| name));
    if !names.is_empty() {
        let list: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
        eprintln!("bench: workers do not inherit {}", list.join(", "));
    }
    names
}

/// Writes the files asked for; returns all problems. One file that cannot be written takes neither
/// the other with it nor what was found before.
fn save(arguments: &Arguments, summary: &Summary<'_>, facts: &Facts, runs: &Runs) -> Vec<String> {
    let found = summary.problems();
    let mut problems = found.clone();
    if let Some(path) = &arguments.json {
        problems.extend(write(path, &raw::render(arguments, facts, runs, &found)).err());
    }
    if let Some(path) = &arguments.html {
        match write(path, &html::render(summary, facts, &found)) {
            Ok(()) => println!("\npage: {}", path.display()),
            Err(problem) => problems.push(problem),
        }
    }
    problems
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|problem| format!("{}: {problem}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::summary::tests::failed;
    use super::*;

    /// What `save` makes of one run that failed, with these targets.
    fn problems(json: &Path, html: &Path) -> Vec<String> {
        let Ok(Command::Run(mut arguments)) = arguments::parse([]) else { panic!() };
        arguments.loads.truncate(1);
        arguments.contenders.truncate(1);
        arguments.json = Some(json.to_owned());
        arguments.html = Some(html.to_owned());
        let runs = vec![vec![vec![failed()]]];
        let summary = Summary::of(arguments.suite, &arguments.contenders, &arguments.loads, &runs);
        save(&arguments, &summary, &Facts::new(), &runs)
    }

    /// A folder of its own for one test.
    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("bench-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_file_that_cannot_be_written_hides_neither_the_other_nor_problems() {
        let folder = folder("save");
        let (absent, good) = (folder.join("absent").join("file"), folder.join("file"));
        for (json, html) in [(&absent, &good), (&good, &absent)] {
            let problems = problems(json, html);
            assert_eq!(problems.len(), 2, "{problems:?}");
            assert!(problems[0].ends_with("signal 11"), "{problems:?}");
            assert!(problems[1].starts_with(&absent.display().to_string()), "{problems:?}");
            assert!(fs::read_to_string(&good).unwrap().contains("signal 11"));
            fs::remove_file(&good).unwrap();
        }
        assert_eq!(problems(&absent, &absent).len(), 3);
        fs::remove_dir(&folder).unwrap();
    }
}
