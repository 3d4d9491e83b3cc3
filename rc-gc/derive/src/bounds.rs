//! Which bounds the implementation needs: found by reading the types of the reported fields.
//!
//! | a reported field mentions | bound |
//! |---|---|
//! | the parameter `T` | `T: Trace` |
//! | `T::Item`, `<T as Iterator>::Item` | that type: `Trace` |
//! | `T` in `PhantomData<T>` only, or in skipped fields only | none |
//! | a macro | `T: Trace` for each parameter |
//!
//! Bounds only decide where the implementation exists; too few are a compile error, never unsound. So
//! reading names is enough, and `#[gc(bound = "...")]` replaces the guess. No unsafe here.

use proc_macro2::Ident;
use syn::visit::{self, Visit};
use syn::{
    DeriveInput, Generics, Macro, Path, Type, TypeParamBound, TypePath, WherePredicate, parse_quote,
};

use crate::attr::TypeAttrs;

/// What the fields say about the parameters.
struct Mentions<'a> {
    params: &'a [Ident],
    used: Vec<&'a Ident>,
    projections: Vec<Type>,
}

impl<'a> Mentions<'a> {
    fn param(&self, path: &Path) -> Option<&'a Ident> {
        let first = &path.segments.first()?.ident;
        self.params.iter().find(|param| *param == first)
    }

    fn note(&mut self, param: &'a Ident) {
        if !self.used.contains(&param) {
            self.used.push(param);
        }
    }

    fn note_projection(&mut self, path: &TypePath) {
        self.projections.push(Type::Path(path.clone()));
    }
}

impl<'ast> Visit<'ast> for Mentions<'_> {
    fn visit_type_path(&mut self, path: &'ast TypePath) {
        if let Some(base) = &path.qself {
            if matches!(plain(&base.ty), Type::Path(base) if self.param(&base.path).is_some()) {
                return self.note_projection(path);
            }
        } else if path.path.segments.last().is_some_and(|last| last.ident == "PhantomData") {
            return;
        } else if let Some(param) = self.param(&path.path) {
            return match path.path.segments.len() {
                1 => self.note(param),
                _ => self.note_projection(path),
            };
        }
        visit::visit_type_path(self, path);
    }

    fn visit_macro(&mut self, _: &'ast Macro) {
        for param in self.params {
            self.note(param);
        }
    }
}

/// The generics of the implementation: the user's bound, or what the `traced` types ask for.
pub(crate) fn bounded(
    input: &DeriveInput,
    attrs: &TypeAttrs,
    krate: &Path,
    traced: &[Type],
) -> Generics {
    let mut generics = input.generics.clone();
    let clause = generics.make_where_clause();
    if let Some(bound) = &attrs.bound {
        clause.predicates.extend(bound.iter().cloned());
        return generics;
    }
    let params: Vec<Ident> =
        input.generics.type_params().map(|param| param.ident.clone()).collect();
    let mut mentions = Mentions { params: &params, used: Vec::new(), projections: Vec::new() };
    traced.iter().for_each(|traced| mentions.visit_type(traced));
    for param in mentions.used {
        clause.predicates.push(parse_quote!(#param: #krate::Trace));
    }
    for projection in mentions.projections {
        clause.predicates.push(parse_quote!(#projection: #krate::Trace));
    }
    generics
}

/// Whether a field of type `of` may have no size, in a struct whose last field it is.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Size {
    /// It has one.
    Known,
    /// It has none if the type's parameter has none.
    Depends,
    /// It has none.
    None,
}

/// Reads the size of a field off its type. An alias of a type without a size goes unnoticed.
pub(crate) fn size_of(of: &Type, generics: &Generics) -> Size {
    match plain(of) {
        Type::Slice(_) | Type::TraitObject(_) => Size::None,
        Type::Path(path) if path.path.is_ident("str") => Size::None,
        // Behind a pointer the parameter's size does not matter, but neither does the answer much.
        _ if maybe_unsized(generics).iter().any(|param| mentions(of, param)) => Size::Depends,
        _ => Size::Known,
    }
}

/// A type without what macros and parentheses put around it.
fn plain(mut of: &Type) -> &Type {
    loop {
        match of {
            Type::Group(group) => of = &group.elem,
            Type::Paren(paren) => of = &paren.elem,
            _ => return of,
        }
    }
}

fn mentions(of: &Type, param: &Ident) -> bool {
    let params = [param.clone()];
    let mut found = Mentions { params: &params, used: Vec::new(), projections: Vec::new() };
    found.visit_type(of);
    !found.used.is_empty()
}

/// The parameters with `?Sized`.
fn maybe_unsized(generics: &Generics) -> Vec<Ident> {
    let inline = generics
        .type_params()
        .filter(|param| param.bounds.iter().any(is_maybe))
        .map(|param| param.ident.clone());
    let clause = generics.where_clause.iter().flat_map(|clause| &clause.predicates);
    let clause = clause.filter_map(|predicate| match predicate {
        WherePredicate::Type(predicate) if predicate.bounds.iter().any(is_maybe) => {
            match &predicate.bounded_ty {
                Type::Path(path) => path.path.get_ident().cloned(),
                _ => None,
            }
        }
        _ => None,
    });
    inline.chain(clause).collect()
}

fn is_maybe(bound: &TypeParamBound) -> bool {
    matches!(bound, TypeParamBound::Trait(bound) if matches!(bound.modifier, syn::TraitBoundModifier::Maybe(_)))
}
