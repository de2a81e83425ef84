//! `derive(Template)`: every name a template uses has a field, every field is used.

use std::{collections::BTreeSet, fs, path::Path};

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, Field, LitStr, ext::IdentExt, punctuated::Punctuated, token::Comma};
use tera::{Delimiters, ErrorKind, Tera};

use crate::problems::{Problems, named_fields};

/// Delimiters that neither Rust nor CUDA nor TOML uses. `synth::template` renders with the same ones; the
/// tests of this crate render what this module has checked, so the two cannot part unnoticed.
const DELIMITERS: [[&str; 2]; 3] = [["@%", "%@"], ["@{", "}@"], ["@#", "#@"]];

/// What Tera calls its own delimiters in messages, in the order of [`DELIMITERS`].
const TERA_DELIMITERS: [[&str; 2]; 3] = [["`{%`", "`%}`"], ["`{{`", "`}}`"], ["`{#`", "`#}`"]];

/// Writes `render` for a struct whose fields and template agree.
pub fn expand(input: &DeriveInput) -> syn::Result<TokenStream> {
    let path = template_path(input)?;
    let fields = named_fields(input, "Template")?;
    let text = read(&path)?;
    let names = names_used(&path, &text)?;
    compare(input, fields, &path, &text, &names)?;

    let name = &input.ident;
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    let idents = fields.iter().map(|field| &field.ident);
    let keys = fields.iter().map(key);
    let doc = format!("Fills `{}`.", path.value());
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics #name #type_generics #where_clause {
            #[doc = #doc]
            pub fn render(&self) -> ::core::result::Result<::std::string::String, ::synth::template::TemplateError> {
                // `include_str!` tells Cargo that this crate depends on the template.
                const TEXT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/", #path));
                ::synth::template::Rendering::new(#path, TEXT)
                    #(.with(#keys, &self.#idents)?)*
                    .finish()
            }
        }
    })
}

fn template_path(input: &DeriveInput) -> syn::Result<LitStr> {
    let mut attributes = input.attrs.iter().filter(|attribute| attribute.path().is_ident("template"));
    let Some(attribute) = attributes.next() else {
        return Err(syn::Error::new_spanned(
            &input.ident,
            "derive(Template) needs the file to fill: write `#[template(\"folder/name.tera\")]`",
        ));
    };
    if let Some(second) = attributes.next() {
        return Err(syn::Error::new_spanned(second, "a struct fills one template: remove this attribute"));
    }
    attribute.parse_args::<LitStr>().map_err(|error| {
        let message = format!("{error}: write `#[template(\"folder/name.tera\")]`");
        syn::Error::new(error.span(), message)
    })
}

fn read(path: &LitStr) -> syn::Result<String> {
    let folder = std::env::var("CARGO_MANIFEST_DIR")
        .map_err(|_| syn::Error::new(path.span(), "CARGO_MANIFEST_DIR is not set: build with cargo"))?;
    fs::read_to_string(Path::new(&folder).join(path.value())).map_err(|error| {
        let message = format!(
            "cannot read template `{}`: {error}; the path starts at the folder of Cargo.toml",
            path.value()
        );
        syn::Error::new(path.span(), message)
    })
}

/// The names that must come from outside, as Tera's own compiler finds them.
fn names_used(path: &LitStr, text: &str) -> syn::Result<BTreeSet<String>> {
    let name = path.value();
    let fail = |error: tera::Error| syn::Error::new(path.span(), parse_message(&name, &error));
    let [block, variable, comment] = DELIMITERS;
    let mut tera = Tera::new();
    tera.set_delimiters(Delimiters {
        block_start: block[0].into(),
        block_end: block[1].into(),
        variable_start: variable[0].into(),
        variable_end: variable[1].into(),
        comment_start: comment[0].into(),
        comment_end: comment[1].into(),
    })
    .map_err(fail)?;
    tera.add_raw_template(&name, text).map_err(fail)?;
    let names = tera.get_template_variables(&name).map_err(fail)?;
    Ok(names.into_iter().map(str::to_owned).collect())
}

fn parse_message(name: &str, error: &tera::Error) -> String {
    let message = match error.kind() {
        ErrorKind::SyntaxError(report) => {
            let span = report.span();
            let message = report.message().trim_end_matches('.');
            format!("{name}:{}:{}: {message}", span.start_line, span.start_col + 1)
        }
        _ => format!("{name}: {error}"),
    };
    let pairs = TERA_DELIMITERS.iter().flatten().zip(DELIMITERS.iter().flatten());
    pairs.fold(message, |message, (theirs, ours)| message.replace(theirs, &format!("`{ours}`")))
}

fn compare(
    input: &DeriveInput,
    fields: &Punctuated<Field, Comma>,
    path: &LitStr,
    text: &str,
    names: &BTreeSet<String>,
) -> syn::Result<()> {
    let mut problems = Problems::default();
    let keys: BTreeSet<String> = fields.iter().map(key).collect();
    let mut missing: Vec<_> = names.difference(&keys).map(|name| (locate(text, name), name)).collect();
    missing.sort();
    for ((line, column), name) in missing {
        let message = format!(
            "{}:{line}:{column}: `{name}` has no field in `{}`: add one, or use one of: {}",
            path.value(),
            input.ident,
            keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", "),
        );
        problems.at(path, message);
    }
    for field in fields {
        let key = key(field);
        if !names.contains(&key) {
            let message = format!(
                "`{key}` is not used in `{}`: write `@{{ {key} }}@` there, or remove the field",
                path.value()
            );
            problems.at(field.ident.as_ref(), message);
        }
    }
    problems.into_result()
}

/// The name that a template uses for a field.
fn key(field: &Field) -> String {
    field.ident.as_ref().map(|ident| ident.unraw().to_string()).unwrap_or_default()
}

/// Line and column, from 1, of the first use of `name` in a tag.
fn locate(text: &str, name: &str) -> (usize, usize) {
    let offset = tags(text).find_map(|(start, tag)| first_use(tag, name).map(|at| start + at)).unwrap_or(0);
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The insides of value and block tags with their byte offsets. Comments are passed over.
fn tags(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let (start, [_, close]) = DELIMITERS
                .iter()
                .filter_map(|pair| text[at..].find(pair[0]).map(|found| (at + found + 2, pair)))
                .min()?;
            let length = text[start..].find(close).unwrap_or(text.len() - start);
            at = start + length;
            if *close != "#@" {
                return Some((start, &text[start..at]));
            }
        }
    })
}

/// Where `name` stands in a tag as a name of its own: no part of a longer word, no attribute, no text.
fn first_use(tag: &str, name: &str) -> Option<usize> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    tag.match_indices(name).map(|(at, _)| at).find(|&at| {
        let (before, after) = (&tag[..at], &tag[at + name.len()..]);
        let quoted = |quote| before.matches(quote).count() % 2 == 1;
        !before.ends_with(|c| is_word(c) || c == '.')
            && !after.starts_with(is_word)
            && !['"', '\'', '`'].into_iter().any(quoted)
    })
}
