//! Writes `unsafe impl Trace` for a struct or an enum.
//!
//! ```text
//! trace      match self { Variant { 0: f0, 1: f1 } => { f0.trace(tracer); f1.trace(tracer) } .. }
//! holds_gc   <A as Trace>::holds_gc(depth) || <B as Trace>::holds_gc(depth) ..
//! ```
//!
//! Skipped fields appear in neither. (The names written begin with `__`: a constant of the user's
//! would be taken for a pattern.) This file runs nothing unsafe; what it writes does, in the user's
//! crate.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Field, Fields, Index, Member, Path, Type, parse_quote};

use crate::attr::{self, TypeAttrs};
use crate::bounds::{self, Size};

/// The implementation for `input`, or the error to show instead.
pub(crate) fn trace(input: &DeriveInput) -> syn::Result<TokenStream> {
    let attrs = TypeAttrs::read(&input.attrs)?;
    let krate = attrs.krate.clone().unwrap_or_else(|| parse_quote!(::rc_gc));
    let mut traced = Vec::new();
    let body = body(input, &krate, &mut traced)?;
    if !traced.is_empty() {
        attr::not_packed(&input.attrs)?;
    }

    let name = &input.ident;
    let generics = bounds::bounded(input, &attrs, &krate, &traced);
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    let size = match &input.data {
        Data::Struct(data) => {
            let last = data.fields.iter().next_back();
            last.map_or(Size::Known, |last| bounds::size_of(&last.ty, &input.generics))
        }
        _ => Size::Known,
    };
    let holds_gc = holds_gc(&krate, &traced, size);
    let finalize = attrs.finalize.then(|| finalize(&krate, size));
    let no_drop = (!attrs.drop).then(|| no_drop(input));

    Ok(quote! {
        const _: () = {
            #[automatically_derived]
            unsafe impl #impl_generics #krate::Trace for #name #type_generics #where_clause {
                #[inline]
                #[allow(unused_variables, deprecated, clippy::all, reason = "generated code")]
                fn trace(&self, __tracer: &mut #krate::Tracer) { #body }
                #holds_gc
                #finalize
            }
            #no_drop
        };
    })
}

/// The body of `trace`; adds the types of the fields that it reports to `traced`.
fn body(input: &DeriveInput, krate: &Path, traced: &mut Vec<Type>) -> syn::Result<TokenStream> {
    match &input.data {
        Data::Struct(data) => {
            let arm = arm(&quote!(Self), &data.fields, krate, traced)?;
            Ok(quote!(match self { #arm }))
        }
        Data::Enum(data) if data.variants.is_empty() => Ok(quote!(match *self {})),
        Data::Enum(data) => {
            let mut arms = TokenStream::new();
            for variant in &data.variants {
                attr::none_allowed(&variant.attrs)?;
                let name = &variant.ident;
                arms.extend(arm(&quote!(Self::#name), &variant.fields, krate, traced)?);
            }
            Ok(quote!(match self { #arms }))
        }
        Data::Union(_) => Err(syn::Error::new_spanned(
            &input.ident,
            "`Trace` cannot be derived for a union: which field is live is not known; \
             write `unsafe impl Trace` by hand",
        )),
    }
}

/// The match arm that reports the fields of one shape.
fn arm(
    path: &TokenStream,
    fields: &Fields,
    krate: &Path,
    traced: &mut Vec<Type>,
) -> syn::Result<TokenStream> {
    let mut patterns = Vec::new();
    let mut calls = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        if attr::is_skipped(&field.attrs)? {
            continue;
        }
        let member = member(index, field);
        let binding = format_ident!("__field_{index}");
        patterns.push(quote!(#member: #binding));
        // An error about the field's type is shown at the field.
        let trace = quote_spanned!(field.ty.span()=> #krate::Trace::trace);
        calls.push(quote!(#trace(#binding, __tracer);));
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

/// `holds_gc`, where the type can have a size; the default answers `true`.
fn holds_gc(krate: &Path, traced: &[Type], size: Size) -> Option<TokenStream> {
    // A parameter that may have no size cannot be asked.
    let answer = match size {
        Size::None | Size::Depends => return None,
        Size::Known => quote!(false #(|| <#traced as #krate::Trace>::holds_gc(__depth))*),
    };
    Some(quote! {
        #[inline]
        #[allow(unused_variables, deprecated, clippy::all, reason = "generated code")]
        fn holds_gc(__depth: u32) -> bool where Self: ::core::marker::Sized { #answer }
    })
}

/// What `#[gc(finalize)]` adds. A type without a size is always asked.
fn finalize(krate: &Path, size: Size) -> TokenStream {
    let has_finalizer = (size != Size::None).then(|| {
        quote! {
            #[inline]
            fn has_finalizer() -> bool where Self: ::core::marker::Sized { true }
        }
    });
    quote! {
        #[inline]
        fn finalize_hook(&self) { #krate::Finalize::finalize(self) }
        #has_finalizer
    }
}

/// Refuses a `Drop` of the type: two implementations of one trait conflict exactly if there is one.
fn no_drop(input: &DeriveInput) -> TokenStream {
    let name = &input.ident;
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    quote! {
        trait HasDropSoNeedsTheAttributeGcDrop {}
        #[allow(drop_bounds, reason = "asks whether there is a `Drop`")]
        impl<T: ?::core::marker::Sized + ::core::ops::Drop> HasDropSoNeedsTheAttributeGcDrop for T {}
        impl #impl_generics HasDropSoNeedsTheAttributeGcDrop for #name #type_generics #where_clause {}
    }
}

#[cfg(test)]
mod tests {
    use syn::DeriveInput;

    fn error(item: &str) -> String {
        let input: DeriveInput = syn::parse_str(item).expect("an item");
        match super::trace(&input) {
            Ok(written) => panic!("no error for {item}: {written}"),
            Err(error) => error.to_string(),
        }
    }

    fn written(item: &str) -> String {
        let input: DeriveInput = syn::parse_str(item).expect("an item");
        super::trace(&input).expect("no error").to_string()
    }

    #[test]
    fn errors_say_what_to_write_instead() {
        for (item, says) in [
            ("union U { a: u8 }", "write `unsafe impl Trace` by hand"),
            ("#[repr(C, packed(2))] struct S { a: u8 }", "write `unsafe impl Trace` by hand"),
            ("#[gc(skipped)] struct S;", "expected `bound = \"...\"`, `drop`, `finalize` or"),
            ("#[gc(skip)] struct S;", "belongs on a field"),
            ("#[gc(drop, drop)] struct S;", "`drop` is given twice"),
            ("#[gc(bound = \"T Trace\")] struct S<T>(T);", "expected"),
            ("struct S { #[gc(ignore)] a: u8 }", "expected `skip`"),
            ("struct S { #[gc(drop)] a: u8 }", "`#[gc(drop)]` belongs on the type"),
            ("enum E { #[gc(skip)] A(u8) }", "write it on each field of the variant"),
        ] {
            let error = error(item);
            assert!(error.contains(says), "{item}: {error}");
        }
    }

    #[test]
    fn bounds_are_those_of_the_reported_fields() {
        let bounds = |item: &str| {
            let written = written(item);
            let from = written.find("where").unwrap_or(0);
            written[from..written.find("{ # [inline]").expect("a body")].trim().to_owned()
        };
        let item =
            "struct S<A, B, C, D: Iterator>(A, Vec<A>, #[gc(skip)] B, PhantomData<C>, D::Item);";
        assert_eq!(bounds(item), "where A : :: rc_gc :: Trace , D :: Item : :: rc_gc :: Trace");
        let item = "#[gc(bound = \"A: Copy\", crate = my::gc)] struct S<A, B>(A, B);";
        assert_eq!(bounds(item), "where A : Copy");
        let item = "struct S<A: Iterator, B>(<A as Iterator>::Item, tuple!(B));";
        assert_eq!(
            bounds(item),
            "where A : :: rc_gc :: Trace , B : :: rc_gc :: Trace , \
             < A as Iterator > :: Item : :: rc_gc :: Trace"
        );
    }
}
