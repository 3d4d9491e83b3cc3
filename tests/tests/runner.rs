//! The runner of cases itself: an exact end is told from every other end.
//!
//! A test that expects a process to die is worth nothing if it would also pass for another death.
//! `DIES` dies on purpose; `verdicts` holds its end against expectations that it must not meet. No
//! unsafe here.

use std::process::ExitCode;
use std::time::Duration;

use alloc_global::PoolAlloc;
use tests::cases::{self, Case, Output, run_self};
use tests::process;

#[global_allocator]
static ALLOC: PoolAlloc = PoolAlloc::new();

const DIES: &str = "a_death_with_its_message_is_expected";

fn main() -> ExitCode {
    cases::main(&[
        Case::new("verdicts_tell_the_exact_end_from_any_other", verdicts),
        Case::new("a_panic_is_no_success_and_its_message_is_kept", panics_are_told),
        Case::new("an_unknown_option_is_refused", unknown_option),
        Case::new("names_are_filtered_and_listed", listed),
        Case::new(DIES, dies).dies(libc::SIGABRT, "last words"),
        Case::new("a_case_that_hangs_is_killed_with_its_children", hangs).within(1).hangs(),
    ])
}

fn verdicts() {
    let died = Case::new(DIES, dies).run();
    let meets = |case: Case| case.verdict(&died).is_none();
    assert!(meets(Case::new(DIES, dies).dies(libc::SIGABRT, "last words")));
    assert!(!meets(Case::new(DIES, dies)), "an abort is no success");
    assert!(!meets(Case::new(DIES, dies).hangs()), "an abort is no hang");
    assert!(!meets(Case::new(DIES, dies).dies(libc::SIGSEGV, "last words")));
    assert!(!meets(Case::new(DIES, dies).dies(libc::SIGABRT, "last word")));
    assert!(!meets(Case::new(DIES, dies).dies(libc::SIGABRT, "second line")));

    let well = Output { status: Some(Default::default()), ..died };
    assert!(Case::new(DIES, dies).verdict(&well).is_none());
    assert!(Case::new(DIES, dies).dies(libc::SIGABRT, "last words").verdict(&well).is_some());
    let hung = Output { status: None, ..well };
    assert!(Case::new(DIES, dies).verdict(&hung).is_some());
    assert!(Case::new(DIES, dies).dies(libc::SIGABRT, "last words").verdict(&hung).is_some());
}

fn panics_are_told() {
    // No such case: `main` ends with 2 and says so.
    let output = run_self(&["--case", "none"], &[], Duration::from_secs(30));
    assert_eq!(output.status.and_then(|status| status.code()), Some(2));
    assert_eq!(output.stderr, "no case none\n");
    let child = process::fork(|| panic!("on purpose"));
    assert_eq!(child.wait(Duration::from_secs(30)), process::Ended::Code(101));
}

fn unknown_option() {
    let output = run_self(&["--frobnicate"], &[], Duration::from_secs(30));
    assert_eq!(output.status.and_then(|status| status.code()), Some(2));
    assert_eq!(output.stderr.lines().next(), Some("unknown option --frobnicate"));
    assert!(output.stderr.contains("usage:"));
}

fn listed() {
    let listed = |args: &[&str]| run_self(args, &[], Duration::from_secs(30)).stdout;
    assert_eq!(listed(&["--list"]).lines().count(), 6);
    assert_eq!(listed(&["--list", "death"]), format!("{DIES}: test\n"));
    assert_eq!(listed(&["--list", "--exact", "death"]), "");
    assert_eq!(listed(&["--list", "--skip", "_"]), "");
}

fn dies() {
    eprintln!("last words\nsecond line");
    std::process::abort();
}

fn hangs() {
    // The grandchild holds the pipes: without its death the parent would wait for their end.
    let _child = process::fork(|| {
        std::thread::sleep(Duration::from_secs(600));
        0
    });
    std::thread::sleep(Duration::from_secs(600));
}
