//! Can this be served at all? Checked before anything is generated, with the arithmetic in the message.

use std::time::Duration;

use serde::Serialize;

use crate::held::{Format, Held, INT4_GROUPS, INT8_GROUPS};
use crate::image::PANEL;
use crate::model::{Dtype, Model};
use crate::target::MachineFacts;
use crate::workload::{Api, Bytes, Metric, Precision, SpecError, Tolerance, Workload};

/// What a server allocates before it is ready, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// How weights are held.
    pub held: Held,
    /// Weight matrices as they are held, scales included; vectors in f32.
    pub weights: u64,
    /// Positions in one KV block.
    pub block: usize,
    /// KV blocks that hold `concurrency` sequences of the greatest length.
    pub kv_blocks: u64,
    /// The format of keys and values.
    pub kv: Precision,
    /// Those blocks: keys and values of every layer.
    pub kv_bytes: u64,
    /// Activations, what attention looks with, rotary table and logits of the widest step.
    pub scratch: u64,
    /// All of them.
    pub total: u64,
}

/// Positions in a KV block before a plan says so.
const BLOCK: usize = 16;
/// Weights up to this size may stay in a last-level cache, so memory bandwidth does not bound them.
const CACHE_BYTES: u64 = 256 << 20;

/// The smallest that `model` can be held while it serves `workload`: as asked, as stored for exact tokens, else in the
/// fewest bits that there are. What a plan holds is at least this.
pub fn least_held(workload: &Workload, model: &Model) -> Held {
    let coarsest = |precision| match precision {
        Precision::F32 => Format::F32,
        Precision::Bf16 => Format::Bf16,
        Precision::Int8 => Format::Int8(INT8_GROUPS[INT8_GROUPS.len() - 1]),
        Precision::Int4 => Format::Int4(INT4_GROUPS[INT4_GROUPS.len() - 1]),
    };
    match (workload.weights, workload.tolerance) {
        (Some(weights), _) => {
            let layers = coarsest(weights.layers);
            Held { layers, head: weights.head.map_or(layers, coarsest) }
        }
        (None, Tolerance::Exact) => Held::as_stored(model),
        (None, Tolerance::Bounded { .. }) => Held::all(coarsest(Precision::Int4)),
    }
}

/// Most positions of one sequence: the longest prompt and the longest output.
pub fn max_positions(workload: &Workload) -> usize {
    workload.traffic.prompt.max + workload.traffic.output.max
}

/// The smallest format that keys and values can have: as asked, f32 for exact tokens, else int8.
pub fn least_kv(workload: &Workload) -> Precision {
    workload.kv.unwrap_or(match workload.tolerance {
        Tolerance::Exact => Precision::F32,
        Tolerance::Bounded { .. } => Precision::Int8,
    })
}

/// What serving `model` allocates when weights are held as `held` and keys and values are kept in `kv`, with KV blocks of
/// `block` positions and steps of at most `rows` positions; `operand` as [`Mechanism::operand_bytes`] of its kernels.
///
/// [`Mechanism::operand_bytes`]: crate::mechanism::Mechanism::operand_bytes
pub fn memory(
    workload: &Workload,
    model: &Model,
    held: Held,
    kv: Precision,
    block: usize,
    rows: usize,
    operand: impl Fn(Format, usize, usize) -> usize,
) -> MemoryPlan {
    const F32: u64 = size_of::<f32>() as u64;
    let dims = &model.dims;
    let (concurrency, positions) = (workload.traffic.concurrency, max_positions(workload));
    let weights = held.bytes(model) + model.n_vector_weights() * F32;
    let kv_blocks = (concurrency * positions.div_ceil(block)) as u64;
    // The only product that legal specs and models can push beyond 64 bits.
    let kv_bytes = kv_blocks.saturating_mul((block as u64).saturating_mul(kv_bytes_per_position(model, kv)));
    // The residual stream, queries, keys and values, and what was attended; and what is inside the MLP, unless it is an
    // operand at once.
    let inside = if matches!(held.layers, Format::Int8(_) | Format::Int4(_)) { dims.intermediate } else { 0 };
    let activations = rows * (dims.hidden + 2 * dims.query_rows() + 2 * dims.kv_rows() + inside);
    let layers = [dims.hidden, dims.query_rows(), dims.intermediate].map(|k| operand(held.layers, rows, k));
    let head = if held.head == held.layers { 0 } else { operand(held.head, concurrency, dims.hidden) };
    let operands = (layers.into_iter().sum::<usize>() + head) as u64;
    let attention = attention_cells(workload, model, kv, block);
    let rotary = positions * dims.head_dim;
    // The sampler bends a copy of one row of logits, and keeps a list of candidates.
    let logits = (concurrency + 2) * dims.vocab + concurrency * dims.vocab.div_ceil(PANEL);
    let scratch = (activations + attention + rotary + logits) as u64 * F32 + operands;
    MemoryPlan {
        held,
        weights,
        block,
        kv_blocks,
        kv,
        kv_bytes,
        scratch,
        total: kv_bytes.saturating_add(weights + scratch),
    }
}

/// Everything that makes the workload unservable with this model on this machine, each at its field.
pub fn check(workload: &Workload, model: &Model, machine: &MachineFacts) -> Vec<SpecError> {
    let mut errors = Vec::new();
    errors.extend(check_context(workload, model));
    errors.extend(check_memory(workload, model));
    errors.extend(check_rounding(workload, model));
    errors.extend(check_kv(workload));
    errors.extend(check_chat(workload, model));
    errors.extend(check_slo(workload, model, machine));
    errors.sort_by_key(|error| (error.line, error.column));
    errors
}

/// Bytes of keys and values of one position, all layers, their scales included.
pub fn kv_bytes_per_position(model: &Model, kv: Precision) -> u64 {
    let scale = if kv >= Precision::Int8 { size_of::<f32>() } else { 0 };
    let head = channels(model, kv) as u64 * kv.bits() / 8 + scale as u64;
    (model.dims.layers * 2 * model.dims.kv_heads) as u64 * head
}

/// Channels of a head in the cache: whole lines of f32, or whole depths of a tile: 64 bytes of bf16 or of codes.
pub fn channels(model: &Model, kv: Precision) -> usize {
    model.dims.head_dim.next_multiple_of(match kv {
        Precision::F32 => 16,
        Precision::Bf16 => 32,
        Precision::Int8 | Precision::Int4 => 64,
    })
}

/// Positions that attend together: about 128 query rows of a key head, in whole KV blocks of `block` positions.
pub fn strip(model: &Model, block: usize) -> usize {
    (128 / model.dims.group() / block * block).max(block)
}

/// Rows of a step, at most, whose positions are spread over threads by the range: with more rows there are sixteen strips
/// for each thread or more.
pub fn split_rows(workload: &Workload, model: &Model) -> usize {
    (16 * workload.target.threads).div_ceil(model.dims.kv_heads)
}

/// Cells that attention looks with: queries, scores of 64 rows over a range and what rows have found, for each thread, and
/// beside codes the scales of a range and what 64 rows are rounded to; and what the rows of a small step have found, range
/// by range.
fn attention_cells(workload: &Workload, model: &Model, kv: Precision, block: usize) -> usize {
    const RANGE: usize = 512;
    const ROWS: usize = 64;
    let (channels, group) = (channels(model, kv), model.dims.group());
    let found = channels + 16;
    // Queries and weights of sixteen bits, and sums of thirty-two.
    let rounded =
        if kv >= Precision::Int8 { 2 * RANGE + ROWS * (channels / 2 + RANGE / 2 + channels) } else { 0 };
    let thread = strip(model, block) * group * (channels + found) + ROWS * (RANGE + found) + rounded;
    let split =
        split_rows(workload, model) * model.dims.heads * max_positions(workload).div_ceil(RANGE) * found;
    workload.target.threads * thread + split
}

fn check_context(workload: &Workload, model: &Model) -> Option<SpecError> {
    let (prompt, output, context) =
        (workload.traffic.prompt.max, workload.traffic.output.max, model.dims.context);
    let message = format!(
        "prompt.max {prompt} + output.max {output} = {}, more than the model's context, {context} (max_position_embeddings)",
        prompt + output
    );
    (prompt + output > context).then(|| workload.error("traffic.prompt.max", message))
}

fn check_memory(workload: &Workload, model: &Model) -> Option<SpecError> {
    // Before a plan there is no number of rows; one per sequence is the least that any plan has, and a byte for each of
    // their activations.
    let (held, kv, rows) = (least_held(workload, model), least_kv(workload), workload.traffic.concurrency);
    check_plan(workload, model, &memory(workload, model, held, kv, BLOCK, rows, |_, rows, k| rows * k))
}

/// Whether the steps and blocks of a plan fit as well: both may be larger than the least there is.
pub fn check_plan(workload: &Workload, model: &Model, plan: &MemoryPlan) -> Option<SpecError> {
    (plan.total > workload.target.memory.0)
        .then(|| workload.error("target.cpu.memory", over_memory(workload, model, plan)))
}

/// The arithmetic of a plan that does not fit.
fn over_memory(workload: &Workload, model: &Model, plan: &MemoryPlan) -> String {
    format!(
        "weights {} + KV {} blocks × {} = {} + scratch {} = {}, more than the {} given; lower traffic.concurrency or the lengths, or give more",
        Bytes(plan.weights),
        plan.kv_blocks,
        Bytes(plan.block as u64 * kv_bytes_per_position(model, plan.kv)),
        Bytes(plan.kv_bytes),
        Bytes(plan.scratch),
        Bytes(plan.total),
        workload.target.memory,
    )
}

/// Rounded weights are another model: its tokens cannot be promised to equal the stored one's.
fn check_rounding(workload: &Workload, model: &Model) -> Option<SpecError> {
    let weights = workload.weights?;
    let rounds = |precision: &Precision| match precision {
        Precision::F32 => false,
        Precision::Bf16 => model.stored != Dtype::Bf16,
        Precision::Int8 | Precision::Int4 => true,
    };
    let rounded = [Some(weights.layers), weights.head].into_iter().flatten().find(rounds)?;
    let message = format!(
        "{} rounds weights stored as {}, so tokens cannot be promised exact; give bounds under tolerance, or leave the weights as stored",
        rounded.name(),
        model.stored.name()
    );
    (workload.tolerance == Tolerance::Exact).then(|| workload.error("weights", message))
}

/// So are rounded keys and values.
fn check_kv(workload: &Workload) -> Option<SpecError> {
    let kv = workload.kv.filter(|kv| *kv != Precision::F32)?;
    let message = format!(
        "{} rounds keys and values, so tokens cannot be promised exact; give bounds under tolerance, or leave kv out",
        kv.name()
    );
    (workload.tolerance == Tolerance::Exact).then(|| workload.error("kv", message))
}

fn check_chat(workload: &Workload, model: &Model) -> Option<SpecError> {
    let lacks = workload.api.contains(&Api::Chat) && model.chat_template.is_none();
    let message = format!(
        "chat needs a chat template, and {} has none; add chat_template.jinja there, or leave chat out",
        model.folder.display()
    );
    lacks.then(|| workload.error("api", message))
}

/// Bounds that no implementation on this machine can keep.
fn check_slo(workload: &Workload, model: &Model, machine: &MachineFacts) -> Vec<SpecError> {
    let errors = workload.slo.keep.iter().filter_map(|(metric, bound)| {
        let floor = floor(*metric, workload, model, machine);
        let message = format!(
            "{} is below the least that this machine allows, {} ({})",
            milliseconds(*bound),
            milliseconds(floor.time),
            floor.why
        );
        (*bound < floor.time).then(|| workload.error(&format!("slo.keep.{}", metric.name()), message))
    });
    errors.collect()
}

struct Floor {
    time: Duration,
    why: String,
}

/// The roofline bound of a metric: bytes over bandwidth, or operations over the peak rate, whichever takes longer.
fn floor(metric: Metric, workload: &Workload, model: &Model, machine: &MachineFacts) -> Floor {
    let (prompt, output) = (workload.traffic.prompt, workload.traffic.output);
    let step = || pass(1, workload, model, machine);
    match metric {
        Metric::TpotP50 | Metric::TpotP99 | Metric::ItlP50 | Metric::ItlP99 => step(),
        Metric::TtftP50 => pass(prompt.p50, workload, model, machine),
        Metric::TtftP99 => pass(prompt.p99, workload, model, machine),
        Metric::E2eP50 | Metric::E2eP99 => {
            let n_steps = if metric == Metric::E2eP50 { output.p50 } else { output.p99 };
            let step = step();
            Floor {
                time: step.time.saturating_mul(n_steps as u32),
                why: format!("{n_steps} tokens, each {}", step.why),
            }
        }
    }
}

/// One pass over the layers for `n` positions of one sequence, and the head for the last of them.
fn pass(n: usize, workload: &Workload, model: &Model, machine: &MachineFacts) -> Floor {
    let dims = &model.dims;
    let head = (dims.vocab * dims.hidden) as u64;
    let n_tables = if model.tied { 1 } else { 2 };
    let layers = model.n_matrix_weights() - n_tables * head;
    let operations = 2.0 * (layers as f64 * n as f64 + head as f64);
    let bytes = least_held(workload, model).bytes_per_pass(model);
    let arithmetic = Floor {
        time: seconds(operations / machine.flops),
        why: format!("{:.3} GFLOP at {:.1} GFLOP/s", operations / 1e9, machine.flops / 1e9),
    };
    let reading = Floor {
        time: seconds(bytes as f64 / machine.bandwidth_bytes_per_s),
        why: format!("{} of weights at {:.1} GB/s", Bytes(bytes), machine.bandwidth_bytes_per_s / 1e9),
    };
    if bytes > CACHE_BYTES && reading.time > arithmetic.time { reading } else { arithmetic }
}

/// A bound that is no number, as from a probe that failed, bounds nothing.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO)
}

fn milliseconds(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1e3;
    if milliseconds >= 10.0 { format!("{milliseconds:.0} ms") } else { format!("{milliseconds:.3} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::folder::Folder;
    use crate::target::Isa;

    const SPEC: &str = "\
name: small
model: { path: MODEL }
target: { cpu: { threads: 2, memory: 1MiB } }
traffic:
  arrivals: { poisson: 4.0 }
  concurrency: 3
  prompt: { p50: 20, p99: 40, max: 50 }
  output: { p50: 10, p99: 20, max: 30 }
";

    /// Operands that are held in f32.
    fn f32(_: Format, rows: usize, k: usize) -> usize {
        4 * rows * k
    }

    fn machine() -> MachineFacts {
        MachineFacts { bandwidth_bytes_per_s: 20e9, flops: 1e9, isas: vec![Isa::Scalar, Isa::Avx2] }
    }

    fn workload(folder: &Folder, from: &str, to: &str) -> Workload {
        assert!(SPEC.contains(from), "{from}");
        let text = SPEC.replace(from, to).replace("MODEL", ".");
        Workload::parse(&folder.path().join("spec.yaml"), &text).expect("the spec is valid")
    }

    /// The errors of the spec with one text replaced, without the file they are in.
    fn errors(folder: &Folder, from: &str, to: &str) -> Vec<String> {
        let model = Model::read(folder.path()).expect("the folder is valid");
        let errors = check(&workload(folder, from, to), &model, &machine());
        let prefix = format!("{}:", folder.path().join("spec.yaml").display());
        errors.iter().map(|error| error.to_string().replace(&prefix, "")).collect()
    }

    #[test]
    fn every_committed_workload_is_feasible() {
        let workloads = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../workloads");
        let fast = MachineFacts { bandwidth_bytes_per_s: 1e12, flops: 1e13, ..machine() };
        for entry in std::fs::read_dir(workloads).expect("the repository has workloads") {
            let path = entry.expect("the folder can be listed").path();
            let name = path.to_string_lossy();
            if !name.ends_with(".yaml") || name.ends_with(".plan.yaml") {
                continue;
            }
            let workload = match Workload::read(&path) {
                Ok(workload) => workload,
                Err(errors) => {
                    // A model of real size is made on demand; until then nothing else may be wrong with its spec.
                    let is_unmade = errors.0.iter().all(|it| it.message.contains("/target/models/"));
                    assert!(is_unmade, "{errors}");
                    continue;
                }
            };
            // Once it is made its header is whatever was made.
            let is_committed =
                |folder: &std::path::Path| !folder.components().any(|it| it.as_os_str() == "target");
            if let crate::workload::ModelSource::Path(folder) = &workload.model
                && is_committed(folder)
            {
                let model = Model::read(folder).unwrap_or_else(|errors| panic!("{errors}"));
                assert_eq!(check(&workload, &model, &fast), []);
            }
        }
    }

    #[test]
    fn what_fits_is_not_refused() {
        let folder = Folder::qwen3();
        assert_eq!(errors(&folder, "small", "small"), Vec::<String>::new());
        assert_eq!(errors(&folder, "max: 30", "max: 46"), Vec::<String>::new());
        assert_eq!(
            errors(&folder, "small", "small\nslo: { keep: { tpot_p50: 1ms, e2e_p99: 1s } }"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn memory_is_the_sum_of_its_parts() {
        let folder = Folder::qwen3();
        let model = Model::read(folder.path()).expect("the folder is valid");
        let workload = workload(&folder, "small", "small");
        let plan = memory(&workload, &model, Held::as_stored(&model), Precision::F32, 16, 32, f32);
        assert_eq!(plan.total, plan.weights + plan.kv_bytes + plan.scratch);
        assert_eq!(plan.kv_blocks, 3 * 5);
        // Two layers of keys and values, one head of 6 in a tile of sixteen, four bytes each; in bf16 one of 32 by two.
        assert_eq!(plan.kv_bytes, 15 * 16 * 2 * 2 * 16 * 4);
        let bf16 = memory(&workload, &model, Held::as_stored(&model), Precision::Bf16, 32, 32, f32);
        assert_eq!(bf16.kv_bytes, 9 * 32 * 2 * 2 * 32 * 2);
        // Of codes one of 64, and a scale of four bytes.
        let int8 = memory(&workload, &model, Held::as_stored(&model), Precision::Int8, 64, 32, f32);
        assert_eq!(int8.kv_bytes, 6 * 64 * 2 * 2 * (64 + 4));
        assert_eq!(plan.weights, model.n_matrix_weights() * 2 + model.n_vector_weights() * 4);
        for (block, rows) in [(1, 32), (16, 64), (64, 32)] {
            let other = memory(&workload, &model, Held::as_stored(&model), Precision::F32, block, rows, f32);
            assert!(other.kv_blocks * block as u64 >= 3 * 80 && other.weights == plan.weights);
        }
    }

    #[test]
    fn what_cannot_be_served_is_refused_at_its_field() {
        let folder = Folder::qwen3();
        for (from, to, expected) in [
            (
                "max: 30",
                "max: 47",
                "7:36: traffic.prompt.max: prompt.max 50 + output.max 47 = 97, more than the model's context, 96",
            ),
            (
                "1MiB",
                "20KiB",
                "3:38: target.cpu.memory: weights 3.8 KiB + KV 15 blocks × 4 KiB = 60 KiB + scratch",
            ),
            (
                "small",
                "small\nslo: { keep: { tpot_p50: 0.001ms } }",
                "2:26: slo.keep.tpot_p50: 0.001 ms is below the least that this machine allows, 0.004 ms",
            ),
            (
                "small",
                "small\nslo: { keep: { ttft_p99: 0.01ms } }",
                "2:26: slo.keep.ttft_p99: 0.010 ms is below the least that this machine allows",
            ),
        ] {
            let found = errors(&folder, from, to);
            assert!(found.len() == 1 && found[0].starts_with(expected), "{expected}\n{found:#?}");
        }
        folder.unset("tokenizer_config.json", "chat_template");
        let found = errors(&folder, "small", "small\napi: [chat]");
        assert!(found[0].starts_with("2:6: api: chat needs a chat template"), "{found:#?}");
        assert_eq!(errors(&folder, "small", "small\napi: [completions]"), Vec::<String>::new());
    }

    #[test]
    fn a_plan_that_outgrows_the_memory_is_refused() {
        let folder = Folder::qwen3();
        let model = Model::read(folder.path()).expect("the folder is valid");
        let workload = workload(&folder, "1MiB", "400KiB");
        assert_eq!(check(&workload, &model, &machine()), []);
        assert_eq!(
            check_plan(
                &workload,
                &model,
                &memory(&workload, &model, Held::as_stored(&model), Precision::F32, 16, 3, f32)
            ),
            None
        );
        let error = check_plan(
            &workload,
            &model,
            &memory(&workload, &model, Held::as_stored(&model), Precision::F32, 16, 256, f32),
        )
        .expect("256 rows are many");
        assert!(
            error.to_string().contains("spec.yaml:3:38: target.cpu.memory: weights 3.8 KiB + KV 15 blocks"),
            "{error}"
        );
        assert!(
            check_plan(
                &workload,
                &model,
                &memory(&workload, &model, Held::as_stored(&model), Precision::F32, 64, 3, f32)
            )
            .is_some()
        );
    }

    #[test]
    fn rounding_needs_a_tolerance() {
        use crate::model::tests::folder::{qwen3_tensors, safetensors};
        let folder = Folder::qwen3();
        folder.write("model.safetensors", safetensors(&qwen3_tensors("F32")));
        let found = errors(&folder, "small", "small\nweights: bf16");
        assert!(found[0].starts_with("2:10: weights: bf16 rounds weights stored as F32"), "{found:#?}");
        for (weights, name) in [("int4", "int4"), ("{ layers: int8, head: f32 }", "int8")] {
            let found = errors(&folder, "small", &format!("small\nweights: {weights}"));
            assert!(
                found[0].contains(&format!("weights: {name} rounds weights stored as F32")),
                "{found:#?}"
            );
        }
        for kv in ["bf16", "int8"] {
            let found = errors(&folder, "small", &format!("small\nkv: {kv}"));
            assert!(found[0].starts_with(&format!("2:5: kv: {kv} rounds keys and values")), "{found:#?}");
        }
        for rounded in ["weights: bf16", "kv: bf16", "kv: int8"] {
            let bounded = format!("small\n{rounded}\ntolerance: {{ kl_mean: 0.01 }}");
            assert_eq!(errors(&folder, "small", &bounded), Vec::<String>::new());
        }
    }

    #[test]
    fn bandwidth_bounds_only_what_no_cache_holds() {
        let folder = Folder::qwen3();
        let mut model = Model::read(folder.path()).expect("the folder is valid");
        let workload = workload(&folder, "small", "small\nslo: { keep: { tpot_p50: 5ms } }");
        let fast = MachineFacts { flops: 1e15, ..machine() };
        assert_eq!(check_slo(&workload, &model, &fast), []);
        model.dims.hidden = 4096;
        model.dims.intermediate = 8192;
        let found = check_slo(&workload, &model, &fast);
        assert!(found[0].message.contains("MiB of weights at 20.0 GB/s"), "{found:#?}");
    }
}
