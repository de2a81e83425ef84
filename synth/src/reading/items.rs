//! Rules about what is declared: choices left open, abstractions over one thing, constants without a reason.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{
    Attribute, Expr, ExprLit, FnArg, Ident, Item, Lit, Macro, Meta, Path, Signature, Type, UseTree,
    spanned::Spanned,
};

use super::visit::Reader;

const VAGUE_NAMES: [&str; 4] = ["Config", "Options", "Manager", "Factory"];
const ENVIRONMENT: [&str; 4] = ["var", "var_os", "vars", "vars_os"];

/// Every file says what it is for.
pub fn module_doc(reader: &mut Reader<'_>) {
    if doc(&reader.page.syntax.attrs).trim().is_empty() {
        let message = "this file does not say what it is for: open it with a `//!` sentence";
        reader.findings.push(reader.page.finding(1, "module-doc", message));
    }
}

/// Lints are obeyed and nothing is left to features.
pub fn attribute(reader: &mut Reader<'_>, attribute: &Attribute) {
    let tokens = attribute.meta.to_token_stream();
    let path = attribute.path();
    let is_conditional = path.is_ident("cfg") || path.is_ident("cfg_attr");
    if is_conditional && holds_ident(tokens.clone(), "feature") {
        feature(reader, attribute.span());
    }
    if path.is_ident("allow") || path.is_ident("cfg_attr") && holds_ident(tokens.clone(), "allow") {
        let message = "obey the lint, or write `#[expect(.., reason = \"..\")]`";
        reader.push(attribute.span(), "allow-attribute", message);
    }
    if path.is_ident("expect") && !holds_ident(tokens, "reason") {
        reader.push(
            attribute.span(),
            "allow-attribute",
            "say why the lint is wrong here: add `reason = \"..\"`",
        );
    }
}

/// `cfg!(feature = ..)` is a feature too.
pub fn macro_name(reader: &mut Reader<'_>, call: &Macro) {
    if call.path.is_ident("cfg") && holds_ident(call.tokens.clone(), "feature") {
        feature(reader, call.span());
    }
    if call.path.segments.last().is_some_and(|last| last.ident == "option_env") {
        environment(reader, call.span());
    }
}

fn feature(reader: &mut Reader<'_>, span: Span) {
    reader.push(span, "cfg-feature", "an emitted crate has no features: emit the code that is wanted");
}

/// Names and constants of one item.
pub fn item(reader: &mut Reader<'_>, item: &Item) {
    match item {
        Item::Struct(item) => type_name(reader, &item.ident),
        Item::Enum(item) => type_name(reader, &item.ident),
        Item::Union(item) => type_name(reader, &item.ident),
        Item::Type(item) => type_name(reader, &item.ident),
        Item::Trait(item) => type_name(reader, &item.ident),
        Item::Const(item) => shape_reason(reader, &item.ident, &item.attrs),
        Item::Static(item) => shape_reason(reader, &item.ident, &item.attrs),
        _ => {}
    }
}

fn type_name(reader: &mut Reader<'_>, ident: &Ident) {
    let name = ident.to_string();
    if let Some(ending) = VAGUE_NAMES.iter().find(|ending| name.ends_with(**ending)) {
        let message = format!("`{ending}` says nothing: call `{name}` after what it is or does");
        reader.push(ident.span(), "type-name", message);
    }
}

/// A constant of `shape.rs` is a decision, so its documentation holds at least one sentence.
fn shape_reason(reader: &mut Reader<'_>, ident: &Ident, attributes: &[Attribute]) {
    if reader.page.path != "src/shape.rs" || ident == "_" {
        return;
    }
    let doc = doc(attributes);
    let has_sentence = doc.split_whitespace().count() >= 3 && doc.trim_end().ends_with(['.', '!', '?']);
    if !has_sentence {
        let message =
            format!("`{ident}` was decided: say why in a `///` sentence that ends with a full stop");
        reader.push(ident.span(), "shape-reason", message);
    }
}

/// A `bool` argument is a decision that the caller writes down as `true`.
pub fn bool_parameters(reader: &mut Reader<'_>, signature: &Signature) {
    if reader.in_trait_impl {
        return;
    }
    for input in &signature.inputs {
        let FnArg::Typed(input) = input else { continue };
        let ty = match &*input.ty {
            Type::Reference(reference) => &reference.elem,
            ty => ty,
        };
        if matches!(ty, Type::Path(path) if path.path.is_ident("bool")) {
            let message = "a caller's `true` says nothing: write two functions, or an enum with two names";
            reader.push(input.span(), "bool-parameter", message);
        }
    }
}

/// Every type is known when the crate is emitted.
pub fn trait_object(reader: &mut Reader<'_>, span: Span) {
    reader.push(span, "dyn", "the type is known here: name it instead of `dyn`");
}

/// Nothing is decided by the environment.
pub fn path(reader: &mut Reader<'_>, path: &Path) {
    let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
    if let [.., module, function] = names.as_slice()
        && module == "env"
        && ENVIRONMENT.contains(&function.as_str())
    {
        environment(reader, path.span());
    }
}

/// As [`path`], for what is imported. `before` holds the names that lead to `tree`.
pub fn import(reader: &mut Reader<'_>, tree: &UseTree, before: &mut Vec<String>) {
    match tree {
        UseTree::Path(tree) => {
            before.push(tree.ident.to_string());
            import(reader, &tree.tree, before);
            before.pop();
        }
        UseTree::Group(group) => group.items.iter().for_each(|tree| import(reader, tree, before)),
        UseTree::Name(_) | UseTree::Rename(_) | UseTree::Glob(_) => {
            let last = match tree {
                UseTree::Name(tree) => tree.ident.to_string(),
                UseTree::Rename(tree) => tree.ident.to_string(),
                _ => ENVIRONMENT[0].to_owned(),
            };
            if before.last().is_some_and(|module| module == "env") && ENVIRONMENT.contains(&last.as_str()) {
                environment(reader, tree.span());
            }
        }
    }
}

fn environment(reader: &mut Reader<'_>, span: Span) {
    reader.push(span, "environment", "the environment decides nothing here: emit the value as a constant");
}

/// Whether only tests compile what the attribute stands on.
pub fn is_test(attribute: &Attribute) -> bool {
    let is_cfg_test = attribute.path().is_ident("cfg")
        && matches!(&attribute.meta, Meta::List(list) if list.tokens.to_string() == "test");
    is_cfg_test || attribute.path().is_ident("test")
}

/// The attributes of the items that can be a test or hold one.
pub fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Fn(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        _ => &[],
    }
}

fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(meta) if meta.path.is_ident("doc") => match &meta.value {
            Expr::Lit(ExprLit { lit: Lit::Str(line), .. }) => Some(line.value()),
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn holds_ident(tokens: TokenStream, name: &str) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == name,
        TokenTree::Group(group) => holds_ident(group.stream(), name),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}
