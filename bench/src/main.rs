//! The command that compares: every workload on every allocator, in turn, several rounds.
//!
//! `cargo run --release -p bench -- --help` says what can be asked for. No unsafe here.

mod runner;

fn main() -> std::process::ExitCode {
    runner::run()
}
