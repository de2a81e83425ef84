//! Mistakes, collected so that a user sees all of them in one compilation.

use quote::ToTokens;
use syn::{Data, DeriveInput, Field, Fields, punctuated::Punctuated, token::Comma};

/// The mistakes found so far, in the order in which they were found.
#[derive(Default)]
pub struct Problems(Option<syn::Error>);

impl Problems {
    /// Notes a mistake at the tokens that are wrong.
    pub fn at(&mut self, tokens: impl ToTokens, message: impl std::fmt::Display) {
        self.push(syn::Error::new_spanned(tokens, message));
    }

    /// Notes a mistake that already knows its place.
    pub fn push(&mut self, error: syn::Error) {
        match &mut self.0 {
            Some(errors) => errors.combine(error),
            None => self.0 = Some(error),
        }
    }

    /// Keeps the value, or notes why there is none.
    pub fn take<T>(&mut self, result: syn::Result<T>) -> Option<T> {
        result.map_err(|error| self.push(error)).ok()
    }

    /// The error of everything noted, if anything was.
    pub fn into_result(self) -> syn::Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// The named fields of the struct that `derive` stands on.
pub fn named_fields<'a>(input: &'a DeriveInput, derive: &str) -> syn::Result<&'a Punctuated<Field, Comma>> {
    match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => Ok(&fields.named),
            Fields::Unnamed(_) | Fields::Unit => Err(syn::Error::new_spanned(
                &input.ident,
                format!("derive({derive}) needs named fields: write `struct {} {{ … }}`", input.ident),
            )),
        },
        Data::Enum(_) | Data::Union(_) => Err(syn::Error::new_spanned(
            &input.ident,
            format!("derive({derive}) works on a struct with named fields"),
        )),
    }
}
