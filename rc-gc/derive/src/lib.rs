//! `#[derive(Trace)]` for `rc-gc`.
//!
//! The derive reports every field to the collector, so it cannot get the contract of `Trace`
//! wrong: each edge once, the same edges each time, no user code. What it writes and what each
//! `#[gc(...)]` attribute means is documented at `rc_gc::Trace`.
//!
//! This crate only reads the item (`attr`), guesses bounds (`bounds`) and writes the implementation
//! (`expand`); which types hold handles it leaves to the compiler, so an alias of `Gc` is as good as
//! `Gc` itself. No unsafe here (the generated implementation is an `unsafe impl`).

mod attr;
mod bounds;
mod expand;

use proc_macro::TokenStream;

/// Implements `rc_gc::Trace` by reporting every field.
///
/// On the type: `#[gc(bound = "T: Trace")]`, `#[gc(drop)]`, `#[gc(finalize)]`,
/// `#[gc(crate = path)]`. On a field: `#[gc(skip)]`. See `rc_gc::Trace` for their meaning.
#[proc_macro_derive(Trace, attributes(gc))]
pub fn derive_trace(item: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(item as syn::DeriveInput);
    expand::trace(&input).unwrap_or_else(|error| error.to_compile_error()).into()
}
