//! The walk over one file: it knows where it is, the rules know what to look for.

use std::collections::BTreeSet;

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::{
    Arm, Attribute, Expr, ExprIf, ExprMatch, ExprMethodCall, ExprUnsafe, ExprWhile, FieldValue, GenericParam,
    Generics, ImplItem, ImplItemFn, Item, ItemFn, ItemImpl, ItemTrait, Macro, PatGuard, Path, Signature,
    Stmt, Token, TraitItem, TraitItemFn, TypeTraitObject, UseTree,
    punctuated::Punctuated,
    spanned::Spanned,
    visit::{self, Visit},
};

use super::{Finding, Page, conditions, crate_facts::CrateFacts, items, promises};

/// Reads one file by the rules that need syntax.
pub fn read(page: &Page<'_>, facts: &CrateFacts) -> Vec<Finding> {
    let mut reader = Reader {
        page,
        facts,
        findings: Vec::new(),
        anchor: 1,
        parameters: Vec::new(),
        in_test: false,
        in_trait_impl: false,
    };
    items::module_doc(&mut reader);
    promises::commented_out_code(&mut reader);
    reader.visit_file(&page.syntax);
    reader.findings
}

/// Where the walk is, and what it has found.
pub struct Reader<'a> {
    pub page: &'a Page<'a>,
    pub facts: &'a CrateFacts,
    pub findings: Vec<Finding>,
    /// First line of the innermost item, statement, arm or field: a comment above it speaks for all of it.
    pub anchor: usize,
    /// Names of the generic parameters in scope, one set for each level.
    pub parameters: Vec<BTreeSet<String>>,
    /// Inside code that only tests compile.
    pub in_test: bool,
    /// Inside `impl Trait for`, where signatures are the trait's.
    pub in_trait_impl: bool,
}

impl Reader<'_> {
    pub fn push(&mut self, span: Span, rule: &'static str, message: impl Into<String>) {
        self.findings.push(self.page.finding(span.start().line, rule, message));
    }

    /// The comments that a reader of `span` has just read.
    pub fn comments_around(&self, span: Span) -> String {
        let comments = &self.page.comments;
        format!("{} {}", comments.around(self.anchor), comments.around(span.start().line))
    }

    fn anchored(&mut self, span: Span, walk: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.anchor, span.start().line);
        walk(self);
        self.anchor = outer;
    }

    fn with_parameters(&mut self, generics: &Generics, walk: impl FnOnce(&mut Self)) {
        let name = |parameter: &GenericParam| match parameter {
            GenericParam::Const(parameter) => Some(parameter.ident.to_string()),
            GenericParam::Type(parameter) => Some(parameter.ident.to_string()),
            GenericParam::Lifetime(_) => None,
        };
        self.parameters.push(generics.params.iter().filter_map(name).collect());
        walk(self);
        self.parameters.pop();
    }

    fn in_test_if(&mut self, attributes: &[Attribute], walk: impl FnOnce(&mut Self)) {
        let outer = self.in_test;
        self.in_test |= attributes.iter().any(items::is_test);
        walk(self);
        self.in_test = outer;
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        items::attribute(self, attribute);
        visit::visit_attribute(self, attribute);
    }

    fn visit_item(&mut self, item: &'ast Item) {
        items::item(self, item);
        promises::unsafe_item(self, item);
        let attributes = items::attributes(item);
        self.in_test_if(attributes, |reader| {
            reader.anchored(item.span(), |reader| visit::visit_item(reader, item));
        });
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.with_parameters(&item.sig.generics, |reader| visit::visit_item_fn(reader, item));
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        let outer = std::mem::replace(&mut self.in_trait_impl, item.trait_.is_some());
        self.with_parameters(&item.generics, |reader| visit::visit_item_impl(reader, item));
        self.in_trait_impl = outer;
    }

    fn visit_item_trait(&mut self, item: &'ast ItemTrait) {
        self.with_parameters(&item.generics, |reader| visit::visit_item_trait(reader, item));
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        self.anchored(item.span(), |reader| visit::visit_impl_item(reader, item));
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.with_parameters(&item.sig.generics, |reader| visit::visit_impl_item_fn(reader, item));
    }

    fn visit_trait_item(&mut self, item: &'ast TraitItem) {
        self.anchored(item.span(), |reader| visit::visit_trait_item(reader, item));
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        self.with_parameters(&item.sig.generics, |reader| visit::visit_trait_item_fn(reader, item));
    }

    fn visit_signature(&mut self, signature: &'ast Signature) {
        items::bool_parameters(self, signature);
        promises::unsafe_signature(self, signature);
        visit::visit_signature(self, signature);
    }

    fn visit_use_tree(&mut self, tree: &'ast UseTree) {
        // The whole tree is read at once, so the walk does not go into its branches.
        items::import(self, tree, &mut Vec::new());
    }

    fn visit_path(&mut self, path: &'ast Path) {
        items::path(self, path);
        visit::visit_path(self, path);
    }

    fn visit_type_trait_object(&mut self, object: &'ast TypeTraitObject) {
        items::trait_object(self, object.span());
        visit::visit_type_trait_object(self, object);
    }

    fn visit_stmt(&mut self, statement: &'ast Stmt) {
        self.anchored(statement.span(), |reader| visit::visit_stmt(reader, statement));
    }

    fn visit_arm(&mut self, arm: &'ast Arm) {
        self.anchored(arm.span(), |reader| visit::visit_arm(reader, arm));
    }

    fn visit_field_value(&mut self, field: &'ast FieldValue) {
        self.anchored(field.span(), |reader| visit::visit_field_value(reader, field));
    }

    fn visit_expr_if(&mut self, expr: &'ast ExprIf) {
        conditions::condition(self, &expr.cond, "if");
        visit::visit_expr_if(self, expr);
    }

    fn visit_expr_while(&mut self, expr: &'ast ExprWhile) {
        conditions::condition(self, &expr.cond, "while");
        visit::visit_expr_while(self, expr);
    }

    fn visit_expr_match(&mut self, expr: &'ast ExprMatch) {
        conditions::condition(self, &expr.expr, "match");
        visit::visit_expr_match(self, expr);
    }

    fn visit_pat_guard(&mut self, guard: &'ast PatGuard) {
        conditions::condition(self, &guard.guard, "match guard");
        visit::visit_pat_guard(self, guard);
    }

    fn visit_expr_unsafe(&mut self, expr: &'ast ExprUnsafe) {
        promises::unsafe_token(self, expr.unsafe_token.span, "block");
        visit::visit_expr_unsafe(self, expr);
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        promises::method_call(self, call);
        visit::visit_expr_method_call(self, call);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        items::macro_name(self, call);
        promises::macro_call(self, call);
        visit::visit_macro(self, call);
        read_macro_body(self, call);
    }
}

/// Reads what stands in a macro call: as expressions or statements where it is that, else as bare tokens.
fn read_macro_body(reader: &mut Reader<'_>, call: &Macro) {
    let arguments = call.parse_body_with(Punctuated::<Expr, Token![,]>::parse_terminated);
    if let Ok(arguments) = arguments {
        return arguments.iter().for_each(|argument| reader.visit_expr(argument));
    }
    match call.parse_body_with(syn::Block::parse_within) {
        Ok(statements) => statements.iter().for_each(|statement| reader.visit_stmt(statement)),
        Err(_) => read_tokens(reader, call.tokens.clone()),
    }
}

fn read_tokens(reader: &mut Reader<'_>, tokens: TokenStream) {
    let mut after_dot = false;
    for token in tokens {
        let is_dot = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == '.');
        match token {
            TokenTree::Group(group) => read_tokens(reader, group.stream()),
            TokenTree::Ident(ident) if ident == "unsafe" => {
                promises::unsafe_token(reader, ident.span(), "block");
            }
            TokenTree::Ident(ident) if ident == "dyn" => items::trait_object(reader, ident.span()),
            TokenTree::Ident(ident) if after_dot => promises::may_panic(reader, &ident, ""),
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
        after_dot = is_dot;
    }
}
