//! Writes `unsafe impl Trace` for a struct or an enum.
//!
//! ```text
//! trace      match self { Variant { 0: f0, 1: f1 } => { f0.trace(tracer); f1.trace(tracer) } .. }
//! holds_gc   <A as Trace>::holds_gc(depth) || <B as Trace>::holds_gc(depth) ..
//! ```
//!
//! Skipped fields appear in neither. This file runs nothing unsafe; what it writes does, in the user's crate.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Data, DeriveInput, Field, Fields, Index, Member, Type, parse_quote};

use crate::attr::{self, TypeAttrs};

/// The implementation for `input`, or the error to show instead.
pub(crate) fn trace(input: &DeriveInput) -> syn::Result<TokenStream> {
    let attrs = TypeAttrs::read(&input.attrs)?;
    let krate = attrs.krate.clone().unwrap_or_else(|| parse_quote!(::rc_gc));
    let mut traced = Vec::new();
    let body = match &input.data {
        Data::Struct(data) => {
            let arm = arm(&quote!(Self), &data.fields, &krate, &mut traced)?;
            quote!(match self { #arm })
        }
        Data::Enum(data) if data.variants.is_empty() => quote!(match *self {}),
        Data::Enum(data) => {
            let mut arms = TokenStream::new();
            for variant in &data.variants {
                attr::none_allowed(&variant.attrs)?;
                let name = &variant.ident;
                arms.extend(arm(&quote!(Self::#name), &variant.fields, &krate, &mut traced)?);
            }
            quote!(match self { #arms })
        }
        Data::Union(_) => {
            return Err(syn::Error::new_spanned(
                &input.ident,
                "`Trace` cannot be derived for a union: which field is live is not known; \
                 write `unsafe impl Trace` by hand",
            ));
        }
    };

    let name = &input.ident;
    let generics = bounded(input, &attrs, &krate);
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    let finalize = attrs.finalize.then(|| {
        quote! {
            #[inline]
            fn finalize_hook(&self) { #krate::Finalize::finalize(self) }
            #[inline]
            fn has_finalizer() -> bool where Self: Sized { true }
        }
    });
    let no_drop = (!attrs.drop).then(|| no_drop(input));

    Ok(quote! {
        const _: () = {
            #[automatically_derived]
            unsafe impl #impl_generics #krate::Trace for #name #type_generics #where_clause {
                #[inline]
                #[allow(unused_variables, clippy::all)]
                fn trace(&self, tracer: &mut #krate::Tracer) { #body }
                #[inline]
                #[allow(unused_variables, clippy::all)]
                fn holds_gc(depth: u32) -> bool where Self: Sized {
                    false #(|| <#traced as #krate::Trace>::holds_gc(depth))*
                }
                #finalize
            }
            #no_drop
        };
    })
}

/// The match arm that reports the fields of one shape.
fn arm(
    path: &TokenStream,
    fields: &Fields,
    krate: &syn::Path,
    traced: &mut Vec<Type>,
) -> syn::Result<TokenStream> {
    let mut patterns = Vec::new();
    let mut calls = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        if attr::is_skipped(&field.attrs)? {
            continue;
        }
        let member = member(index, field);
        let binding = format_ident!("field_{index}");
        patterns.push(quote!(#member: #binding));
        calls.push(quote!(#krate::Trace::trace(#binding, tracer);));
        traced.push(field.ty.clone());
    }
    Ok(quote!(#path { #(#patterns,)* .. } => { #(#calls)* }))
}

/// A field's name, or its number.
fn member(index: usize, field: &Field) -> Member {
    match &field.ident {
        Some(name) => Member::Named(name.clone()),
        None => Member::Unnamed(Index::from(index)),
    }
}

/// The generics of the implementation: the user's bound, or `T: Trace` for each type parameter.
fn bounded(input: &DeriveInput, attrs: &TypeAttrs, krate: &syn::Path) -> syn::Generics {
    let mut generics = input.generics.clone();
    let params: Vec<_> = generics.type_params().map(|param| param.ident.clone()).collect();
    let clause = generics.make_where_clause();
    match &attrs.bound {
        Some(bound) => clause.predicates.extend(bound.iter().cloned()),
        None => {
            for param in params {
                clause.predicates.push(parse_quote!(#param: #krate::Trace));
            }
        }
    }
    generics
}

/// Refuses a `Drop` of the type: two implementations of one trait conflict exactly if there is one.
fn no_drop(input: &DeriveInput) -> TokenStream {
    let name = &input.ident;
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    quote! {
        trait HasDropSoNeedsTheAttributeGcDrop {}
        #[allow(drop_bounds)]
        impl<T: ?Sized + ::core::ops::Drop> HasDropSoNeedsTheAttributeGcDrop for T {}
        impl #impl_generics HasDropSoNeedsTheAttributeGcDrop for #name #type_generics #where_clause {}
    }
}
