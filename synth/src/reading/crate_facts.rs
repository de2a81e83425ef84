//! What one file does not say about itself: which names are statics, which traits have how many implementations.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::{ItemImpl, ItemTrait, visit::Visit};

use super::{Finding, Page};

/// Facts about all files of a crate together.
#[derive(Default)]
pub struct CrateFacts {
    /// Names of statics: written like constants, but their value may change.
    statics: BTreeSet<String>,
    /// Traits that the crate declares, with file and line.
    traits: BTreeMap<String, (String, usize)>,
    /// How many `impl`s name a trait.
    implementations: BTreeMap<String, usize>,
}

impl CrateFacts {
    pub fn gather(pages: &[Page<'_>]) -> CrateFacts {
        let mut facts = CrateFacts::default();
        for page in pages {
            facts.gather_statics(page.syntax.to_token_stream());
            Gatherer { page, facts: &mut facts }.visit_file(&page.syntax);
        }
        facts
    }

    pub fn is_static(&self, name: &str) -> bool {
        self.statics.contains(name)
    }

    /// Traits that abstract over nothing.
    pub fn lonely_traits(&self) -> impl Iterator<Item = Finding> {
        self.traits.iter().filter_map(|(name, (file, line))| {
            let n_implementations = self.implementations.get(name).copied().unwrap_or(0);
            (n_implementations < 2).then(|| Finding {
                file: file.clone(),
                line: *line,
                rule: "lonely-trait",
                message: format!(
                    "trait `{name}` has {n_implementations} implementations: write its functions on the type itself"
                ),
            })
        })
    }

    /// Statics are found among the tokens, so those that macros such as `thread_local!` declare count too.
    fn gather_statics(&mut self, tokens: TokenStream) {
        let mut after_static = false;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if ident == "static" || (after_static && ident == "mut") => {
                    after_static = true;
                    continue;
                }
                TokenTree::Ident(ident) if after_static => {
                    self.statics.insert(ident.to_string());
                }
                TokenTree::Group(group) => self.gather_statics(group.stream()),
                _ => {}
            }
            after_static = false;
        }
    }
}

struct Gatherer<'a> {
    page: &'a Page<'a>,
    facts: &'a mut CrateFacts,
}

impl Visit<'_> for Gatherer<'_> {
    fn visit_item_trait(&mut self, item: &ItemTrait) {
        let place = (self.page.path.to_owned(), item.ident.span().start().line);
        self.facts.traits.insert(item.ident.to_string(), place);
        syn::visit::visit_item_trait(self, item);
    }

    fn visit_item_impl(&mut self, item: &ItemImpl) {
        if let Some(name) = item.trait_.as_ref().and_then(|(path, _)| path.segments.last()) {
            *self.facts.implementations.entry(name.ident.to_string()).or_default() += 1;
        }
        syn::visit::visit_item_impl(self, item);
    }
}
