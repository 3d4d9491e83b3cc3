//! Whole-process tests: shared helpers. No unsafe here.
