//! `derive(Weights)`: names, shapes and types of a struct of weights agree, and `load` follows from them.

use std::collections::BTreeMap;

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote};
use syn::{
    Attribute, DeriveInput, Expr, ExprLit, Field, GenericArgument, Lit, LitStr, Meta, PathArguments, Type,
    punctuated::Punctuated, token::Comma,
};

use crate::problems::{Problems, named_fields};

/// How one field is read.
enum Weight {
    /// A matrix of `(rows, cols)` elements, in panels or row after row.
    Matrix { name: LitStr, rows: Expr, cols: Expr, element: Type, layout: &'static str },
    /// A vector of `len` floats.
    Vector { name: LitStr, len: Expr },
    /// One struct for each index below `count`.
    Each { count: Expr, element: Type },
}

impl Weight {
    fn name(&self) -> Option<&LitStr> {
        match self {
            Weight::Matrix { name, .. } | Weight::Vector { name, .. } => Some(name),
            Weight::Each { .. } => None,
        }
    }

    fn is_of_a_layer(&self) -> bool {
        self.name().is_some_and(|name| name.value().contains("{}"))
    }
}

/// Writes `load` for a struct whose fields are described without contradiction.
pub fn expand(input: &DeriveInput) -> syn::Result<TokenStream> {
    let mut problems = Problems::default();
    if !input.generics.params.is_empty() {
        problems.at(&input.generics, "weights have one type: remove the parameters");
    }
    let fields = named_fields(input, "Weights")?;
    let described: Vec<(&Field, Weight)> = fields
        .iter()
        .filter_map(|field| problems.take(weight_of(field)).map(|weight| (field, weight)))
        .collect();
    check_names(&described, &mut problems);
    problems.into_result()?;

    let name = &input.ident;
    let of_a_layer = described.iter().any(|(_, weight)| weight.is_of_a_layer());
    let layer = of_a_layer.then(|| quote!(, layer: usize));
    let doc = match of_a_layer {
        true => "Reads the weights of layer `layer`, counted from 0, each checked against its shape.",
        false => "Reads the weights, each checked against its shape.",
    };
    let loads = described.iter().map(|(field, weight)| {
        let (ident, load) = (&field.ident, load(weight));
        quote!(#ident: #load)
    });
    Ok(quote! {
        #[automatically_derived]
        impl #name {
            #[doc = #doc]
            pub fn load(
                image: &::rt::image::Image #layer
            ) -> ::core::result::Result<Self, ::rt::image::ImageError> {
                ::core::result::Result::Ok(Self { #(#loads),* })
            }
        }
    })
}

fn load(weight: &Weight) -> TokenStream {
    let name = |name: &LitStr| match name.value().contains("{}") {
        true => quote!(&::std::format!(#name, layer)),
        false => quote!(#name),
    };
    match weight {
        Weight::Matrix { name: text, rows, cols, element, layout } => {
            let (name, load) = (name(text), format_ident!("{layout}"));
            quote!(image.#load::<#element>(#name, #rows, #cols)?)
        }
        Weight::Vector { name: text, len } => {
            let name = name(text);
            quote!(image.vector(#name, #len)?)
        }
        Weight::Each { count, element } => quote! {
            (0..#count).map(|idx| <#element>::load(image, idx)).collect::<::core::result::Result<_, _>>()?
        },
    }
}

/// Names are read once, and either all or none of them are of a layer.
fn check_names(described: &[(&Field, Weight)], problems: &mut Problems) {
    let mut seen: BTreeMap<String, &Field> = BTreeMap::new();
    for (field, weight) in described {
        let Some(name) = weight.name() else { continue };
        if let Some(first) = seen.insert(name.value(), field) {
            let first = first.ident.to_token_stream();
            problems
                .at(name, format!("`{}` is already read into `{first}`: name another tensor", name.value()));
        }
    }
    if described.iter().any(|(_, weight)| weight.is_of_a_layer()) {
        for (field, _) in described.iter().filter(|(_, weight)| !weight.is_of_a_layer()) {
            let message = "other fields of this struct are read per layer: put `{}` where the index of the \
                           layer stands, or move this field to a struct that is read once";
            problems.at(&field.ident, message);
        }
    }
}

const EXAMPLES: &str = "write `#[weight(\"name\", rows = N, cols = M)]`, `#[weight(\"name\", len = N)]` or \
                        `#[weight(each = N)]`";

fn weight_of(field: &Field) -> syn::Result<Weight> {
    let mut attributes = field.attrs.iter().filter(|attribute| attribute.path().is_ident("weight"));
    let Some(attribute) = attributes.next() else {
        return Err(syn::Error::new_spanned(&field.ident, format!("this field is never read: {EXAMPLES}")));
    };
    if let Some(second) = attributes.next() {
        return Err(syn::Error::new_spanned(second, "a field is read once: remove this attribute"));
    }
    match keys(attribute)? {
        Keys { name: Some(name), rows: Some(rows), cols: Some(cols), len: None, each: None } => {
            let message = "`rows` and `cols` describe a matrix: make the field `Panels<T>` or `Rows<T>`, or write `len`";
            let (element, layout) = match argument(&field.ty, "Rows", message) {
                Ok(element) => (element, "rows"),
                Err(_) => (argument(&field.ty, "Panels", message)?, "panels"),
            };
            check_doc(field, &[&rows, &cols])?;
            Ok(Weight::Matrix { name, rows, cols, element, layout })
        }
        Keys { name: Some(name), len: Some(len), rows: None, cols: None, each: None } => {
            let message = "`len` describes a vector: make the field a `Vec<f32>`, or write `rows` and `cols`";
            if written(&argument(&field.ty, "Vec", message)?) != "f32" {
                return Err(syn::Error::new_spanned(&field.ty, message));
            }
            check_doc(field, &[&len])?;
            Ok(Weight::Vector { name, len })
        }
        Keys { each: Some(count), name: None, rows: None, cols: None, len: None } => {
            let message = "`each` reads one struct per index: make the field a `Vec<Layer>`";
            Ok(Weight::Each { count, element: argument(&field.ty, "Vec", message)? })
        }
        _ => Err(syn::Error::new_spanned(attribute, format!("these keys describe no weight: {EXAMPLES}"))),
    }
}

/// What stands in a `#[weight(..)]` attribute.
#[derive(Default)]
struct Keys {
    name: Option<LitStr>,
    rows: Option<Expr>,
    cols: Option<Expr>,
    len: Option<Expr>,
    each: Option<Expr>,
}

fn keys(attribute: &Attribute) -> syn::Result<Keys> {
    let mut problems = Problems::default();
    let mut keys = Keys::default();
    for expr in attribute.parse_args_with(Punctuated::<Expr, Comma>::parse_terminated)? {
        match expr {
            Expr::Lit(ExprLit { lit: Lit::Str(name), .. }) => {
                if let Err(message) = check_name(&name.value()) {
                    problems.at(&name, message);
                }
                if keys.name.is_some() {
                    problems.at(&name, "a field is read from one tensor: remove this name");
                }
                keys.name = Some(name);
            }
            Expr::Assign(assign) => {
                let slot = match written(&assign.left).as_str() {
                    "rows" => &mut keys.rows,
                    "cols" => &mut keys.cols,
                    "len" => &mut keys.len,
                    "each" => &mut keys.each,
                    key => {
                        problems.at(&assign.left, format!("unknown key `{key}`: {EXAMPLES}"));
                        continue;
                    }
                };
                if slot.replace(*assign.right).is_some() {
                    problems.at(&assign.left, format!("`{}` is given twice", written(&assign.left)));
                }
            }
            other => problems.at(&other, format!("expected a name or `key = value`: {EXAMPLES}")),
        }
    }
    problems.into_result().map(|()| keys)
}

/// A name is plain text with at most one `{}`.
fn check_name(name: &str) -> Result<(), &'static str> {
    match name.matches("{}").count() {
        0 | 1 if name.replace("{}", "").contains(['{', '}']) => {
            Err("a tensor name holds no brace but `{}`, which stands for the index of the layer")
        }
        0 | 1 if name.is_empty() => Err("a tensor has a name: the one it has in the image"),
        0 | 1 => Ok(()),
        _ => Err("a layer has one index: keep one `{}`"),
    }
}

/// The shape that a reader sees in the comment is the shape that is checked.
fn check_doc(field: &Field, shape: &[&Expr]) -> syn::Result<()> {
    let doc: String = field.attrs.iter().filter_map(doc_line).collect();
    let dims: Vec<String> = shape.iter().map(written).collect();
    if doc.contains(&format!("({})", dims.join(","))) {
        return Ok(());
    }
    let dims: Vec<String> = shape.iter().map(|dim| dim.to_token_stream().to_string()).collect();
    let message = format!("the doc comment of a weight states its shape: write `/// ({})`", dims.join(", "));
    Err(syn::Error::new_spanned(&field.ident, message))
}

/// One line of a doc comment without its white space.
fn doc_line(attribute: &Attribute) -> Option<String> {
    let Meta::NameValue(meta) = &attribute.meta else { return None };
    let Expr::Lit(ExprLit { lit: Lit::Str(line), .. }) = &meta.value else { return None };
    meta.path.is_ident("doc").then(|| line.value().split_whitespace().collect())
}

/// Tokens as they are written, without white space.
fn written(tokens: &impl ToTokens) -> String {
    tokens.to_token_stream().to_string().split_whitespace().collect()
}

/// The `T` of a field of type `outer<T>`.
fn argument(ty: &Type, outer: &str, message: &str) -> syn::Result<Type> {
    let Type::Path(path) = ty else { return Err(syn::Error::new_spanned(ty, message)) };
    let last = path.path.segments.last().filter(|segment| segment.ident == outer);
    let arguments = last.map(|segment| &segment.arguments);
    let Some(PathArguments::AngleBracketed(arguments)) = arguments else {
        return Err(syn::Error::new_spanned(ty, message));
    };
    match arguments.args.first() {
        Some(GenericArgument::Type(element)) if arguments.args.len() == 1 => Ok(element.clone()),
        _ => Err(syn::Error::new_spanned(ty, message)),
    }
}
