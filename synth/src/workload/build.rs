//! A tree that fits the field table becomes a workload; what only shows between fields is checked here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::hex;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::errors::{SpecError, SpecErrors};
use super::field::{Kind, Need, field};
use super::file::{self, Node};
use super::scalar::{choice, integer, number, size, text, time};
use super::{
    Api, Arrivals, Bytes, Lengths, Metric, ModelSource, Output, Precision, Slo, SpecSource, Tolerance,
    Traffic, Weights, Workload,
};
use super::{check, requests};
use crate::target::{Cpu, Isa};

/// Reads the text of a spec; relative paths are taken from the folder of `source`.
pub(super) fn build(source: SpecSource) -> Result<Workload, SpecErrors> {
    let root = file::parse(&source).map_err(|error| SpecErrors(vec![error]))?;
    let mut errors = Vec::new();
    check::check(&source, &root, &mut errors);
    let mut builder = Builder { source: &source, root: &root, errors };
    let workload = builder.workload();
    let mut errors = builder.errors;
    match workload {
        Some(workload) if errors.is_empty() => Ok(workload),
        _ => {
            // The spec's own errors first, then those of the files it names.
            errors.sort_by_key(|error| (error.file != source.path(), error.line, error.column));
            Err(SpecErrors(errors))
        }
    }
}

struct Builder<'a> {
    source: &'a SpecSource,
    root: &'a Node,
    errors: Vec<SpecError>,
}

impl Builder<'_> {
    /// The workload, or `None` where some field is missing or wrong; that field's error is there already.
    fn workload(&mut self) -> Option<Workload> {
        // Every part is read before the first `?`, so that each one reports what is wrong with it.
        let (name, model, weights, kv) = (self.text("name"), self.model(), self.weights(), self.kv());
        let (target, traffic) = (self.target(), self.traffic());
        let (api, slo, tolerance) = (self.api(), self.slo(), self.tolerance());
        let mut workload = Workload {
            name: name?,
            model: model?,
            weights: weights?,
            kv: kv?,
            target: target?,
            traffic: traffic?,
            output: Output::Text,
            api: api?,
            slo: slo?,
            tolerance: tolerance?,
            digest: String::new(),
            source: self.source.clone(),
        };
        workload.digest = digest(&workload);
        Some(workload)
    }

    fn model(&mut self) -> Option<ModelSource> {
        if self.given("model.hub") {
            return Some(ModelSource::Hub {
                repo: self.text("model.hub")?,
                revision: self.text("model.revision")?,
            });
        }
        let folder = self.path("model.path")?;
        if !folder.is_dir() {
            let message =
                format!("no folder at {}; the path is relative to the folder of the spec", folder.display());
            self.errors.push(self.source.error("model.path", message));
            return None;
        }
        Some(ModelSource::Path(folder))
    }

    /// `Some(None)` where the spec forces no precision.
    fn weights(&mut self) -> Option<Option<Weights>> {
        if !self.given("weights") {
            return Some(None);
        }
        if !matches!(self.lookup("weights"), Some(Node::Map(_))) {
            return Some(Some(Weights { layers: precision(self.choice("weights")?)?, head: None }));
        }
        let layers = precision(self.choice("weights.layers")?)?;
        let head = match self.given("weights.head") {
            true => Some(precision(self.choice("weights.head")?)?),
            false => None,
        };
        if let Some(head) = head
            && let Some(message) = unpaired(layers, head)
        {
            self.errors.push(self.source.error("weights.head", message));
            return None;
        }
        Some(Some(Weights { layers, head }))
    }

    fn kv(&self) -> Option<Option<Precision>> {
        match self.given("kv") {
            true => precision(self.choice("kv")?).map(Some),
            false => Some(None),
        }
    }

    fn target(&self) -> Option<Cpu> {
        let isa = self.choice("target.cpu.isa")?;
        Some(Cpu {
            isa: Isa::ALL.into_iter().find(|known| known.name() == isa)?,
            threads: self.integer("target.cpu.threads")?,
            memory: self.size("target.cpu.memory")?,
        })
    }

    fn traffic(&mut self) -> Option<Traffic> {
        let (prompt, output) = (self.lengths("traffic.prompt"), self.lengths("traffic.output"));
        let (arrivals, samples) = (self.arrivals(prompt, output), self.samples());
        Some(Traffic {
            arrivals: arrivals?,
            concurrency: self.integer("traffic.concurrency")?,
            prompt: prompt?,
            output: output?,
            samples: samples?,
        })
    }

    fn arrivals(&mut self, prompt: Option<Lengths>, output: Option<Lengths>) -> Option<Arrivals> {
        if self.given("traffic.arrivals.poisson") {
            return self.number("traffic.arrivals.poisson").map(Arrivals::Poisson);
        }
        if self.given("traffic.arrivals.closed") {
            return self.integer("traffic.arrivals.closed").map(Arrivals::Closed);
        }
        let path = self.path("traffic.arrivals.trace")?;
        let longest = prompt.zip(output).map(|(prompt, output)| (prompt.max, output.max));
        let read = requests::trace(&path, longest);
        self.keep_errors("traffic.arrivals.trace", read).map(|_| Arrivals::Trace(path))
    }

    /// `Some(None)` where the spec names no samples.
    fn samples(&mut self) -> Option<Option<PathBuf>> {
        if !self.given("traffic.samples") {
            return Some(None);
        }
        let path = self.path("traffic.samples")?;
        let read = requests::samples(&path);
        self.keep_errors("traffic.samples", read).map(|_| Some(path))
    }

    fn lengths(&mut self, path: &str) -> Option<Lengths> {
        let at = |name: &str| format!("{path}.{name}");
        let [p50, p99, max] = ["p50", "p99", "max"].map(|name| self.integer(&at(name)));
        for (low, high, low_name, high_name) in [(p50, p99, "p50", "p99"), (p99, max, "p99", "max")] {
            if let (Some(low), Some(high)) = (low, high)
                && low > high
            {
                let message = format!("expected at least {low_name}, {low}, found {high}");
                self.errors.push(self.source.error(&at(high_name), message));
            }
        }
        Some(Lengths { p50: p50?, p99: p99?, max: max? })
    }

    fn api(&self) -> Option<Vec<Api>> {
        let Node::List(elements) = self.node("api")? else { return None };
        let known = [Api::Chat, Api::Completions];
        let asked = |api: &Api| elements.contains(&Node::Text(api.name().to_owned()));
        Some(known.into_iter().filter(asked).collect())
    }

    fn slo(&self) -> Option<Slo> {
        let minimise = metric(self.choice("slo.minimise")?)?;
        let Node::Map(entries) = self.node("slo.keep")? else { return None };
        let bound = |(name, value): &(String, Node)| Some((metric(name)?, time(value).ok()?));
        Some(Slo { minimise, keep: entries.iter().map(bound).collect::<Option<BTreeMap<_, _>>>()? })
    }

    fn tolerance(&self) -> Option<Tolerance> {
        let bounds =
            ["tolerance.logprob_p99", "tolerance.same_top", "tolerance.kl_mean", "tolerance.kl_p999"];
        if !bounds.iter().any(|path| self.given(path)) {
            return Some(Tolerance::Exact);
        }
        let [logprob_p99, same_top, kl_mean, kl_p999] = bounds.map(|path| self.number(path));
        let kl_mean = kl_mean?;
        let kl_p999 = if self.given("tolerance.kl_p999") { kl_p999? } else { TAIL * kl_mean };
        Some(Tolerance::Bounded { logprob_p99: logprob_p99?, same_top: same_top?, kl_mean, kl_p999 })
    }

    /// What the spec says at `path`.
    fn lookup(&self, path: &str) -> Option<&Node> {
        path.split('.').try_fold(self.root, |node, name| match node {
            Node::Map(entries) => entries.iter().find(|(key, _)| key == name).map(|(_, value)| value),
            _ => None,
        })
    }

    fn given(&self, path: &str) -> bool {
        self.lookup(path).is_some()
    }

    /// What the spec says at `path`, else the default of the table.
    fn node(&self, path: &str) -> Option<Node> {
        match (self.lookup(path), field(path)?.need) {
            (Some(node), _) => Some(node.clone()),
            (None, Need::Default(text)) => file::node(text).ok(),
            (None, _) => None,
        }
    }

    fn text(&self, path: &str) -> Option<String> {
        text(&self.node(path)?, "text").ok().map(str::to_owned)
    }

    fn choice(&self, path: &str) -> Option<&'static str> {
        let (Kind::Choice(words) | Kind::ChoiceOrMap(words)) = field(path)?.kind else { return None };
        choice(words, &self.node(path)?).ok()
    }

    fn integer(&self, path: &str) -> Option<usize> {
        let Kind::Integer { min, max } = field(path)?.kind else { return None };
        integer(&self.node(path)?, min, max).ok()
    }

    fn number(&self, path: &str) -> Option<f64> {
        let Kind::Number { above, most } = field(path)?.kind else { return None };
        number(&self.node(path)?, above, most).ok()
    }

    fn size(&self, path: &str) -> Option<Bytes> {
        size(&self.node(path)?).ok()
    }

    /// A path of the spec, made one from here.
    fn path(&self, path: &str) -> Option<PathBuf> {
        let folder = self.source.path().parent().unwrap_or(Path::new(""));
        Some(folder.join(self.text(path)?))
    }

    /// Errors of a file that the spec names stand with the spec's own.
    fn keep_errors<T>(&mut self, path: &str, read: Result<T, requests::Misread>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(requests::Misread::File(message)) => {
                self.errors.push(self.source.error(path, message));
                None
            }
            Err(requests::Misread::Lines(lines)) => {
                self.errors.extend(lines);
                None
            }
        }
    }
}

/// What the 99.9th percentile of a divergence is to its mean, at most, where a spec bounds only the mean. llama.cpp's
/// published series of one 8 B model has 24 to 32 for its formats of four bits and more.
const TAIL: f64 = 50.0;

fn precision(name: &str) -> Option<Precision> {
    Precision::ALL.into_iter().find(|precision| precision.name() == name)
}

/// Why a head cannot stand beside layers of this precision, if it cannot.
fn unpaired(layers: Precision, head: Precision) -> Option<String> {
    let has_codes = |precision| precision >= Precision::Int8;
    let (layers_name, head_name) = (layers.name(), head.name());
    if !has_codes(layers) && head != layers {
        return Some(format!("expected `{layers_name}` beside layers of {layers_name}, found `{head_name}`"));
    }
    (head > layers).then(|| {
        format!("expected no fewer bits than the layers have, {layers_name}, found `{head_name}`; the head is what suffers most")
    })
}

fn metric(name: &str) -> Option<Metric> {
    Metric::ALL.into_iter().find(|metric| metric.name() == name)
}

/// sha256 of what is asked for. Where files lie does not count: a model, a trace and samples have digests of their own.
fn digest(workload: &Workload) -> String {
    let arrivals = match &workload.traffic.arrivals {
        Arrivals::Trace(_) => Arrivals::Trace(PathBuf::new()),
        other => other.clone(),
    };
    let model = match &workload.model {
        ModelSource::Path(_) => ModelSource::Path(PathBuf::new()),
        hub => hub.clone(),
    };
    let canonical = json!({
        "name": workload.name,
        "model": model,
        "weights": workload.weights,
        "kv": workload.kv,
        "target": workload.target,
        "traffic": Traffic { arrivals, samples: None, ..workload.traffic.clone() },
        "output": workload.output,
        "api": workload.api,
        "slo": workload.slo,
        "tolerance": workload.tolerance,
    });
    hex(&Sha256::digest(canonical.to_string()))
}
