//! What happens where memory ends: the process says which allocation failed, as it does for `Rc`,
//! and ends; nothing hangs, nothing crashes on the way. Each case is this program again, as a child
//! with little address space. No unsafe here.

use std::cell::RefCell;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use rc_gc::{Gc, Trace};

/// Set in a child: what it allocates until the end.
const CASE: &str = "MEMORY_ENDS_CASE";
/// What `abort` ends a process with.
const SIGABRT: i32 = 6;

#[derive(Trace)]
struct Link<const N: usize>(RefCell<Option<Gc<Link<N>>>>, [u64; N]);

/// Objects that all stay: rings of two, so that collections have something to look at.
fn fill<const N: usize>() {
    let mut all = Vec::new();
    loop {
        let pair = [(); 2].map(|()| Gc::new(Link(RefCell::default(), [7; N])));
        *pair[0].0.borrow_mut() = Some(pair[1].clone());
        *pair[1].0.borrow_mut() = Some(pair[0].clone());
        assert!(pair.iter().all(|link| link.1 == [7; N]));
        if all.len() == all.capacity() {
            // In steps that are small beside the rest: it is an object that is to fail.
            all.reserve_exact(1 << 16);
        }
        all.push(pair);
    }
}

/// The last words of a child that allocates this until the end.
fn end_of(case: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let output = Command::new("sh")
        .args(["-c", "ulimit -v 200000 && exec \"$0\" --exact child --nocapture --test-threads=1"])
        .arg(program)
        .env(CASE, case)
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.signal(), Some(SIGABRT), "{case}: {words}");
    words
}

/// Does nothing, but in a child.
#[test]
fn child() {
    match std::env::var(CASE).as_deref() {
        Ok("small") => fill::<4>(),
        Ok("large") => fill::<1000>(),
        _ => {}
    }
}

#[test]
fn objects_of_pools_say_what_could_not_be_allocated() {
    let words = end_of("small");
    assert!(words.contains("memory allocation of ") && words.contains(" bytes failed"), "{words}");
    if cfg!(not(feature = "verify")) {
        // No list of the collector's own was what failed.
        assert!(words.contains(&format!(" {} bytes", size_of::<Link<4>>())), "{words}");
    }
}

#[test]
fn objects_of_the_global_allocator_do_too() {
    let words = end_of("large");
    assert!(words.contains("memory allocation of ") && words.contains(" bytes failed"), "{words}");
}
