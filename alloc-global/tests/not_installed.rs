//! A program that links the crate and runs on another allocator: what would be a guess is refused.
//! No unsafe here.

use alloc_global::{MeasureError, assert_no_alloc, measure};

#[test]
fn without_the_allocator_installed_nothing_is_counted() {
    assert_eq!(measure(|| 1).unwrap_err(), MeasureError::NotInstalled);
    let panic =
        std::panic::catch_unwind(|| assert_no_alloc!(std::hint::black_box(1) + 1)).unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains("not the global allocator"), "{text}");
}
