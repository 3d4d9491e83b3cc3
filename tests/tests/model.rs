//! 12,000 random programs against a plain model, `check()` after every step.
//!
//! Four processes run 3,000 programs each, two at a time. The programs of one process share its
//! heap, so later ones run on pools and caches that earlier ones have used. When a program fails,
//! in whatever way, it is run again by itself in fresh processes, shortened for as long as it still
//! fails, and printed with the command that repeats it:
//! `cargo test -p tests --test model -- --replay SEED [PLACE,PLACE,...]`.
//!
//! What a program is, and what is checked after each step: `tests::program`. No unsafe here.

use std::process::ExitCode;
use std::time::Duration;

use alloc_global::{PoolAlloc, stats};
use tests::block::Process;
use tests::cases::{self, Case, Output, run_self};
use tests::invariants;
use tests::program::{Mix, Program, shrink};

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

/// Programs per case.
const SHARE: u64 = 3_000;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--replay", seed] => replay(seed, None),
        ["--replay", seed, places] => replay(seed, Some(places)),
        _ => cases::main_with(
            &[
                Case::new("programs_of_the_first_quarter_keep_to_the_model", share::<0>),
                Case::new("programs_of_the_second_quarter_keep_to_the_model", share::<1>),
                Case::new("programs_of_the_third_quarter_keep_to_the_model", share::<2>),
                Case::new("programs_of_the_fourth_quarter_keep_to_the_model", share::<3>),
            ],
            2,
            explain,
        ),
    }
}

fn share<const NUMBER: u64>() {
    for seed in NUMBER * SHARE..(NUMBER + 1) * SHARE {
        println!("program {seed}");
        let program = Program::random(seed, &Mix::WHOLE);
        let before = stats();
        let nulls = program.run(Process, &mut invariants);
        assert_eq!(nulls, 0, "null with memory to be had");
        let after = stats();
        assert_eq!(
            (after.live_blocks, after.fallback_live_blocks),
            (before.live_blocks, before.fallback_live_blocks),
            "blocks live after program {seed}"
        );
    }
}

/// Runs one program, or a part of it, alone.
fn replay(seed: &str, places: Option<&str>) -> ExitCode {
    let Ok(seed) = seed.parse() else {
        eprintln!("a seed is a number, not {seed:?}\nusage: --replay SEED [PLACE,PLACE,...]");
        return ExitCode::from(2);
    };
    let whole = Program::random(seed, &Mix::WHOLE);
    let program = match places {
        None => whole,
        Some(list) => {
            whole.keep(&list.split(',').filter_map(|place| place.parse().ok()).collect::<Vec<_>>())
        }
    };
    print!("{program}");
    program.run(Process, &mut invariants);
    ExitCode::SUCCESS
}

/// Shortens the program that a failed case was running, in processes of their own.
fn explain(_: &str, output: &Output) {
    let last = output.stdout.lines().filter_map(|line| line.strip_prefix("program ")).next_back();
    let Some(Ok(seed)) = last.map(str::parse::<u64>) else { return };
    let fails = |places: &[usize]| {
        let run = run_part(seed, places);
        run.status.is_none_or(|status| !status.success())
    };
    let program = Program::random(seed, &Mix::WHOLE);
    if !fails(&program.places()) {
        println!("  program {seed} passes alone: it takes the programs before it to fail");
        return;
    }
    let least = shrink(program.places(), fails);
    println!("  shortened to {} calls; repeat with:", least.len());
    println!("  cargo test -p tests --test model -- --replay {seed} {}", list(&least));
    print!("{}{}", run_part(seed, &least).stdout, run_part(seed, &least).stderr);
}

fn run_part(seed: u64, places: &[usize]) -> Output {
    let seed = seed.to_string();
    run_self(&["--replay", &seed, &list(places)], &[], Duration::from_secs(20))
}

fn list(places: &[usize]) -> String {
    places.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}
