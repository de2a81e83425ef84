//! Rules about what the code promises: dangers are argued for, panics cannot happen, nothing is left for later.

use proc_macro2::Span;
use syn::{Expr, ExprLit, ExprMethodCall, Ident, Item, Lit, Macro, Safety, Signature, spanned::Spanned};

use super::visit::Reader;

/// Words by which a comment argues that something does not happen.
const ARGUMENTS: [&str; 3] = ["cannot", "never", "always"];

/// An `unsafe` block is argued for in the comment right above it or above its statement.
pub fn unsafe_token(reader: &mut Reader<'_>, span: Span, what: &str) {
    let comments = reader.comments_around(span);
    if !comments.contains("SAFETY:") && !comments.contains("# Safety") {
        let message = format!("this `unsafe` {what} is not argued for: write `// SAFETY: ..` right above it");
        reader.push(span, "unsafe-safety", message);
    }
}

/// As [`unsafe_token`], for items.
pub fn unsafe_item(reader: &mut Reader<'_>, item: &Item) {
    let (token, what) = match item {
        Item::Impl(item) => (item.unsafety, "impl"),
        Item::Trait(item) => (item.unsafety, "trait"),
        Item::ForeignMod(item) => (item.unsafety, "extern block"),
        _ => return,
    };
    if let Some(token) = token {
        // The comment stands above the item, whose own attributes come between.
        let outer = std::mem::replace(&mut reader.anchor, token.span.start().line);
        unsafe_token(reader, token.span, what);
        reader.anchor = outer;
    }
}

/// As [`unsafe_token`], for functions, whose documentation may say it under `# Safety`.
pub fn unsafe_signature(reader: &mut Reader<'_>, signature: &Signature) {
    if let Safety::Unsafe(token) = signature.safety {
        unsafe_token(reader, token.span, "function");
    }
}

/// `unwrap` and `expect` end the server unless they cannot fail.
pub fn method_call(reader: &mut Reader<'_>, call: &ExprMethodCall) {
    may_panic(reader, &call.method, &text_of(call.args.first()));
}

/// Reports `method` if it panics and neither `message` nor a comment argues that it does not.
pub fn may_panic(reader: &mut Reader<'_>, method: &Ident, message: &str) {
    if ["unwrap", "expect", "unwrap_err", "expect_err"].iter().any(|name| method == name) {
        panics(reader, method.span(), &format!(".{method}()"), message);
    }
}

fn panics(reader: &mut Reader<'_>, span: Span, what: &str, message: &str) {
    let argued = format!("{} {message}", reader.comments_around(span)).to_lowercase();
    if !reader.in_test && !ARGUMENTS.iter().any(|word| argued.contains(word)) {
        let message = format!(
            "`{what}` ends the server: handle the case, or say in a comment why it cannot happen (one of: {})",
            ARGUMENTS.join(", ")
        );
        reader.push(span, "panic", message);
    }
}

/// Macros that print, panic, or stand for code that is missing.
pub fn macro_call(reader: &mut Reader<'_>, call: &Macro) {
    let Some(name) = call.path.segments.last().map(|last| last.ident.to_string()) else { return };
    let span = call.span();
    match name.as_str() {
        "todo" | "unimplemented" => {
            reader.push(span, "unfinished", format!("`{name}!` is code that is missing: write it"));
        }
        "panic" | "unreachable" => {
            let arguments = call.tokens.to_string();
            panics(reader, span, &format!("{name}!"), &arguments);
        }
        "dbg" => reader.push(span, "printing", "`dbg!` is for the author: remove it"),
        "println" | "print" | "eprintln" | "eprint"
            if !reader.in_test && reader.page.path != "src/main.rs" =>
        {
            let message = format!("only main.rs speaks to the terminal: return what `{name}!` would print");
            reader.push(span, "printing", message);
        }
        _ => {}
    }
}

/// Code in a comment is neither code nor comment.
pub fn commented_out_code(reader: &mut Reader<'_>) {
    for (line, comment) in reader.page.comments.plain() {
        // A word with a semicolon parses too; code has an operator, a call or a field in it.
        let is_prose = !comment.ends_with([';', '{', '}']) || !comment.contains(['=', '(', '.', ' ']);
        let closed = comment.strip_suffix('{').map_or(comment.to_owned(), |open| format!("{open}{{}}"));
        if !is_prose && syn::parse_str::<Statements>(&closed).is_ok() {
            let message = "code in a comment is not read and not compiled: remove it";
            reader.findings.push(reader.page.finding(line, "commented-out-code", message));
        }
    }
}

struct Statements;

impl syn::parse::Parse for Statements {
    fn parse(input: syn::parse::ParseStream<'_>) -> syn::Result<Statements> {
        syn::Block::parse_within(input).map(|_| Statements)
    }
}

fn text_of(argument: Option<&Expr>) -> String {
    match argument {
        Some(Expr::Lit(ExprLit { lit: Lit::Str(text), .. })) => text.value(),
        _ => String::new(),
    }
}
