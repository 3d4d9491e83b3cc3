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

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use arguments::{Arguments, Command, USAGE};
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
    println!("{}s:", arguments.suite.contender_word);
    for contender in arguments.suite.contenders {
        let missing = contender
            .missing(&arguments.features)
            .map(|feature| format!("needs --features {feature}"));
        let line = format!("  {:<12} {}", contender.name, missing.unwrap_or_default());
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
    let workers = build::build(&arguments.contenders, &arguments.profile, rustflags)?;
    let facts = machine::facts(&arguments.contenders, &arguments.profile, rustflags);
    let runs = schedule::measure(arguments, &workers);
    let summary = Summary::of(arguments.suite, &arguments.contenders, &arguments.loads, &runs);
    let problems = summary.problems();
    print!("{}", table::render(&summary));
    if let Some(path) = &arguments.json {
        write(path, &raw::render(arguments, &facts, &runs, &problems))?;
    }
    if let Some(path) = &arguments.html {
        write(path, &html::render(&summary, &facts, &problems))?;
        println!("\npage: {}", path.display());
    }
    Ok(problems)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|problem| format!("{}: {problem}", path.display()))
}
