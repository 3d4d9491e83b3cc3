//! What `#[gc(...)]` says, read from types, variants and fields.
//!
//! Unknown names are errors that list the known ones; nothing is ignored.

use syn::meta::ParseNestedMeta;
use syn::punctuated::Punctuated;
use syn::{Attribute, Path, Token, WherePredicate};

/// The attributes of a type.
#[derive(Default)]
pub(crate) struct TypeAttrs {
    /// `#[gc(bound = "...")]`: the where clause to use instead of the guess (`bounds`).
    pub(crate) bound: Option<Punctuated<WherePredicate, Token![,]>>,
    /// `#[gc(drop)]`: the type has its own `Drop`.
    pub(crate) drop: bool,
    /// `#[gc(finalize)]`: the type implements `Finalize`.
    pub(crate) finalize: bool,
    /// `#[gc(crate = path)]`: where `rc_gc` is to be found.
    pub(crate) krate: Option<Path>,
}

impl TypeAttrs {
    /// Reads the attributes of a type.
    pub(crate) fn read(attrs: &[Attribute]) -> syn::Result<Self> {
        let mut read = TypeAttrs::default();
        for attr in attrs.iter().filter(|attr| attr.path().is_ident("gc")) {
            attr.parse_nested_meta(|meta| {
                if meta.path.is_ident("drop") {
                    once(&meta, read.drop)?;
                    read.drop = true;
                } else if meta.path.is_ident("finalize") {
                    once(&meta, read.finalize)?;
                    read.finalize = true;
                } else if meta.path.is_ident("bound") {
                    once(&meta, read.bound.is_some())?;
                    let text: syn::LitStr = meta.value()?.parse()?;
                    read.bound = Some(text.parse_with(Punctuated::parse_terminated)?);
                } else if meta.path.is_ident("crate") {
                    once(&meta, read.krate.is_some())?;
                    read.krate = Some(meta.value()?.call(Path::parse_mod_style)?);
                } else if meta.path.is_ident("skip") {
                    return Err(meta.error("`#[gc(skip)]` belongs on a field"));
                } else {
                    return Err(meta.error(
                        "unknown attribute: expected `bound = \"...\"`, `drop`, `finalize` or \
                         `crate = path` on a type, `skip` on a field",
                    ));
                }
                Ok(())
            })?;
        }
        Ok(read)
    }
}

/// An attribute must not be given twice: which one counts would be a guess.
fn once(meta: &ParseNestedMeta<'_>, given: bool) -> syn::Result<()> {
    match meta.path.get_ident() {
        Some(name) if given => Err(meta.error(format!("`{name}` is given twice"))),
        _ => Ok(()),
    }
}

/// Whether a field says `#[gc(skip)]`.
pub(crate) fn is_skipped(attrs: &[Attribute]) -> syn::Result<bool> {
    let mut skip = false;
    for attr in attrs.iter().filter(|attr| attr.path().is_ident("gc")) {
        attr.parse_nested_meta(|meta| {
            if meta.path.is_ident("skip") {
                skip = true;
                return Ok(());
            }
            for of_type in ["bound", "crate", "drop", "finalize"] {
                if meta.path.is_ident(of_type) {
                    return Err(meta.error(format!("`#[gc({of_type})]` belongs on the type")));
                }
            }
            Err(meta.error("unknown attribute of a field: expected `skip`"))
        })?;
    }
    Ok(skip)
}

/// Variants carry no attributes; a misplaced one is an error.
pub(crate) fn none_allowed(attrs: &[Attribute]) -> syn::Result<()> {
    match attrs.iter().find(|attr| attr.path().is_ident("gc")) {
        Some(attr) => Err(syn::Error::new_spanned(
            attr,
            "`#[gc(...)]` belongs on the type or on a field; for `skip`, write it on each field of \
             the variant",
        )),
        None => Ok(()),
    }
}

/// Fields of a packed type cannot be borrowed.
pub(crate) fn not_packed(attrs: &[Attribute]) -> syn::Result<()> {
    for attr in attrs.iter().filter(|attr| attr.path().is_ident("repr")) {
        attr.parse_nested_meta(|meta| {
            if meta.path.is_ident("packed") {
                return Err(meta.error(
                    "`Trace` cannot be derived for a packed type: its fields cannot be borrowed; \
                     write `unsafe impl Trace` by hand, or `#[gc(skip)]` on each field",
                ));
            }
            // The argument of `align(16)` and the like.
            if meta.input.peek(syn::token::Paren) {
                let content;
                syn::parenthesized!(content in meta.input);
                content.parse::<proc_macro2::TokenStream>()?;
            }
            Ok(())
        })?;
    }
    Ok(())
}
