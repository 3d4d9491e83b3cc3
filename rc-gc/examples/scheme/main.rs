//! A small Scheme on `Gc<T>`: closures and environments form cycles, and memory stays flat.
//!
//! ```text
//! cargo run --release --example scheme -- [--stats] FILE...
//! ```
//!
//! | file | |
//! |---|---|
//! | `heap` | values, environments, closures: what is collected |
//! | `value` | what can be done with values |
//! | `read` | text to values |
//! | `compile` | values to code: names become places |
//! | `run` | runs code; tail calls take no stack |
//! | `builtins` | the procedures of the language |
//!
//! No unsafe here.

mod builtins;
mod compile;
mod heap;
mod read;
mod run;
mod value;

use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "usage: scheme [--stats] FILE...";

fn main() -> ExitCode {
    let (options, files): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with('-'));
    if files.is_empty() || options.iter().any(|option| option != "--stats") {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    let program = move || files.iter().all(|file| run_file(file, !options.is_empty()));
    let thread = std::thread::Builder::new().stack_size(run::STACK).spawn(program);
    match thread.map(std::thread::JoinHandle::join) {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("scheme: no thread: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one program; whether it ended well.
fn run_file(file: &str, stats: bool) -> bool {
    let program = match std::fs::read_to_string(file) {
        Ok(program) => program,
        Err(error) => {
            eprintln!("scheme: {file}: {error}");
            return false;
        }
    };
    let start = Instant::now();
    let result = run::Machine::new().run(&program);
    print!("{}", builtins::take_output());
    if stats {
        eprintln!("{file}: {:.3} s\n{}", start.elapsed().as_secs_f64(), rc_gc::stats());
    }
    if let Err(error) = &result {
        eprintln!("scheme: {file}: {error}");
    }
    result.is_ok()
}
