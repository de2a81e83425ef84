//! Does a tree fit the field table? Every misfit is collected, at its place.

use super::SpecSource;
use super::errors::SpecError;
use super::field::{FIELDS, Field, Kind, METRICS, Need, children, field, required_of};
use super::file::Node;
use super::locate::{Step, locate, steps};
use super::scalar::{choice, crate_name, integer, number, repository, revision, size, text, time};
use super::units;

/// Most errors of one spec: finding the place of each takes another reading of the text.
const MAX_ERRORS: usize = 32;

/// Checks `root` against the whole table and appends what is wrong to `errors`.
pub(super) fn check(source: &SpecSource, root: &Node, errors: &mut Vec<SpecError>) {
    Checker { source, errors }.map("", root);
}

struct Checker<'a> {
    source: &'a SpecSource,
    errors: &'a mut Vec<SpecError>,
}

impl Checker<'_> {
    fn value(&mut self, field: &'static Field, node: &Node) {
        match field.kind {
            Kind::Map => {
                self.map(field.path, node);
            }
            Kind::OneOf(groups) => {
                if self.map(field.path, node) {
                    self.one_group(field.path, groups, node);
                }
            }
            Kind::ChoiceOrMap(_) if matches!(node, Node::Map(_)) => {
                self.map(field.path, node);
            }
            Kind::Bounds => self.bounds(field.path, node),
            Kind::Choices(words) => self.choices(field.path, words, node),
            kind => {
                if let Err(message) = kind.check(node) {
                    self.errors.push(self.source.error(field.path, message));
                }
            }
        }
    }

    /// Checks names and values of the fields directly below `parent`; false where `node` is no map at all.
    fn map(&mut self, parent: &str, node: &Node) -> bool {
        let Node::Map(entries) = node else {
            let names: Vec<&str> = children(parent).map(Field::name).collect();
            self.errors.push(
                self.source.error(parent, format!("expected a map with {}, found {node}", listed(&names))),
            );
            return false;
        };
        for (idx, (name, value)) in entries.iter().enumerate() {
            if self.errors.len() >= MAX_ERRORS {
                return true;
            }
            let nth = entries[..idx].iter().filter(|(earlier, _)| earlier == name).count();
            match children(parent).find(|field| field.name() == name) {
                _ if nth > 0 => self.name_error(parent, name, nth, "given twice; keep one".to_owned()),
                Some(field) => self.value(field, value),
                None => self.name_error(parent, name, 0, unknown(parent, name)),
            }
        }
        let is_one_of = field(parent).is_some_and(|field| matches!(field.kind, Kind::OneOf(_)));
        for child in children(parent).filter(|child| matches!(child.need, Need::Required) && !is_one_of) {
            // A misspelled name was reported as such; that it is missing as well says nothing new.
            let meant = |name: &str| closest(name, children(parent).map(Field::name)) == Some(child.name());
            if !entries.iter().any(|(name, _)| name == child.name() || meant(name)) {
                self.missing(parent, child);
            }
        }
        true
    }

    /// Checks that the fields given are those of one group, and all that this group needs.
    fn one_group(&mut self, path: &str, groups: &[&'static [&'static str]], node: &Node) {
        let Node::Map(entries) = node else { return };
        let is_given = |name: &str| entries.iter().any(|(given, _)| given == name);
        let chosen: Vec<_> = groups.iter().filter(|group| group.iter().any(|name| is_given(name))).collect();
        match chosen.as_slice() {
            [group] => {
                for missing in required_of(path, group).filter(|field| !is_given(field.name())) {
                    self.missing(path, missing);
                }
            }
            // An unknown name was reported already, with what was expected.
            [] if !entries.is_empty() => {}
            [] => self
                .errors
                .push(self.source.error(path, format!("expected one of {}", alternatives(path, groups)))),
            _ => {
                let message = format!("expected only one of {}, found several", alternatives(path, groups));
                self.errors.push(self.source.error(path, message));
            }
        }
    }

    fn missing(&mut self, parent: &str, field: &Field) {
        let place = locate(self.source.text(), &steps(parent));
        let message = format!("missing, expected {}", field.kind.expected(field.path));
        self.errors.push(self.source.at(place, field.path, message));
    }

    fn choices(&mut self, path: &str, words: &[&str], node: &Node) {
        let Node::List(elements) = node else {
            self.errors
                .push(self.source.error(path, format!("expected a list of {}, found {node}", listed(words))));
            return;
        };
        if elements.is_empty() {
            self.errors.push(self.source.error(path, format!("expected at least one of {}", listed(words))));
        }
        for (idx, element) in elements.iter().enumerate() {
            if self.errors.len() >= MAX_ERRORS {
                return;
            }
            let twice =
                elements[..idx].contains(element).then(|| format!("{element} is listed twice; keep one"));
            if let Some(message) = twice.or_else(|| choice(words, element).err()) {
                let mut at = steps(path);
                at.push(Step::Element(idx));
                let place = locate(self.source.text(), &at);
                self.errors.push(self.source.at(place, format!("{path}[{idx}]"), message));
            }
        }
    }

    fn bounds(&mut self, path: &str, node: &Node) {
        let Node::Map(entries) = node else {
            let message =
                format!("expected a map from metrics to times, as `{{ ttft_p99: 800ms }}`, found {node}");
            self.errors.push(self.source.error(path, message));
            return;
        };
        for (idx, (name, value)) in entries.iter().enumerate() {
            if self.errors.len() >= MAX_ERRORS {
                return;
            }
            let nth = entries[..idx].iter().filter(|(earlier, _)| earlier == name).count();
            if nth > 0 {
                self.name_error(path, name, nth, "given twice; keep one".to_owned());
            } else if !METRICS.contains(&name.as_str()) {
                let message =
                    format!("unknown metric, expected {}{}", listed(&METRICS), suggest(name, METRICS));
                self.name_error(path, name, 0, message);
            } else if let Err(message) = time(value) {
                self.errors.push(self.source.error(&format!("{path}.{name}"), message));
            }
        }
    }

    /// An error at the name of a field rather than at its value.
    fn name_error(&mut self, parent: &str, name: &str, nth: usize, message: String) {
        let mut at = steps(parent);
        at.push(Step::Name { name, nth });
        let place = locate(self.source.text(), &at);
        let shown: String = name.chars().take(64).collect::<String>().escape_debug().collect();
        let field = if parent.is_empty() { shown } else { format!("{parent}.{shown}") };
        self.errors.push(self.source.at(place, field, message));
    }
}

impl Kind {
    /// Checks one scalar; maps and lists have checks of their own.
    fn check(self, node: &Node) -> Result<(), String> {
        match self {
            Kind::Map | Kind::OneOf(_) | Kind::Bounds | Kind::Choices(_) => Ok(()),
            Kind::CrateName => crate_name(node),
            Kind::Integer { min, max } => integer(node, min, max).map(|_| ()),
            Kind::Number { above, most } => number(node, above, most).map(|_| ()),
            Kind::Choice(words) | Kind::ChoiceOrMap(words) => choice(words, node).map(|_| ()),
            Kind::Bytes => size(node).map(|_| ()),
            Kind::Path => text(node, "a path").map(|_| ()),
            Kind::Repository => repository(node),
            Kind::Revision => revision(node),
        }
    }

    /// What this kind takes, in words.
    pub(super) fn expected(self, path: &str) -> String {
        match self {
            Kind::Map => {
                format!("a map with {}", listed(&children(path).map(Field::name).collect::<Vec<_>>()))
            }
            Kind::OneOf(groups) => format!("a map with one of {}", alternatives(path, groups)),
            Kind::CrateName => {
                "a crate name: lower-case letters, digits, `_` or `-`, as `quickstart`".to_owned()
            }
            Kind::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Number { above, most } => format!("a number above {above} and up to {most}"),
            Kind::Choice([word]) => format!("`{word}`"),
            Kind::Choice(words) => format!("one of {}", listed(words)),
            Kind::ChoiceOrMap(words) => {
                format!("one of {}, or {}", listed(words), Kind::Map.expected(path))
            }
            Kind::Choices(words) => format!("a list of {}", listed(words)),
            Kind::Bytes => units::SIZE.to_owned(),
            Kind::Path => "a path, relative to the folder of the spec".to_owned(),
            Kind::Repository => "a repository on the hub, as `org/name`".to_owned(),
            Kind::Revision => "a branch, tag or commit".to_owned(),
            Kind::Bounds => format!("a map from {} to times, as `{{ ttft_p99: 800ms }}`", listed(&METRICS)),
        }
    }
}

fn unknown(parent: &str, name: &str) -> String {
    let siblings: Vec<&str> = children(parent).map(Field::name).collect();
    let hint = match suggest(name, siblings.iter().copied()) {
        hint if !hint.is_empty() => hint,
        // The right name at the wrong depth is the next likely mistake.
        _ => FIELDS
            .iter()
            .find(|field| field.name() == name)
            .map_or(String::new(), |field| format!("; did you mean `{}`?", field.path)),
    };
    format!("unknown field, expected one of {}{hint}", listed(&siblings))
}

/// `; did you mean ..` for the candidate closest to `word`, or nothing where none is close.
pub(super) fn suggest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    closest(word, candidates).map_or(String::new(), |candidate| format!("; did you mean `{candidate}`?"))
}

/// The candidate that `word` was most likely meant to be, if any.
fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.is_empty() || word.len() > 64 {
        return None;
    }
    let lower = word.to_lowercase();
    let likeness = |candidate: &str| {
        let same_start = candidate.starts_with(&lower) || lower.starts_with(candidate);
        if same_start { 1.0 } else { strsim::normalized_damerau_levenshtein(&lower, candidate) }
    };
    let liked = candidates.into_iter().map(|candidate| (likeness(candidate), candidate));
    let best = liked.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= 0.6).then_some(best.1)
}

pub(super) fn listed(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// The groups of a map that takes one of them: what each needs, or all of it where it needs no particular one.
fn alternatives(path: &str, groups: &[&'static [&'static str]]) -> String {
    let group = |group: &&'static [&'static str]| {
        let needed: Vec<&str> = required_of(path, group).map(Field::name).collect();
        let names = if needed.is_empty() { group.to_vec() } else { needed };
        names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" and/or ")
    };
    groups.iter().map(group).collect::<Vec<_>>().join(", ")
}
