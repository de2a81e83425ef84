//! What mechanisms that round have in common: the calibration decides whether they fit.

use synth::{
    axis::Axis,
    calibration::{Candidate, Divergence, Measured, clause},
    emit::EmitError,
    held::{Format, Held, ROW},
    mechanism::{Cost, Fit, Job, Part, Site},
    workload::{Precision, Tolerance},
};

use crate::kernels::{GROUP, HEAD_GROUP};

/// What was measured of a candidate, or why the spec does not allow it: a clause.
pub fn measured<'a>(job: &Job<'a>, candidate: &Candidate) -> Result<&'a Measured, String> {
    if job.workload.tolerance == Tolerance::Exact {
        return Err("the tolerance asks for exact tokens".to_owned());
    }
    let measured = job.calibration.and_then(|calibration| calibration.of(candidate));
    let measured = measured.ok_or("what it loses was not measured")?;
    match measured.divergence.broken(job.workload.tolerance).as_slice() {
        [] => Ok(measured),
        broken => Err(clause(broken)),
    }
}

/// Codes of this precision in the layers: the cheapest groups and head that keep the tolerance.
pub fn fit(job: &Job<'_>, precision: Precision) -> Fit {
    let name = precision.name();
    if let Some(asked) = job.workload.weights
        && asked.layers != precision
    {
        return Fit::no(format!("the spec asks for {}", asked.layers.name()));
    }
    if job.workload.tolerance == Tolerance::Exact {
        return Fit::no(format!("{name} rounds weights, and the tolerance asks for exact tokens"));
    }
    let measured = job
        .calibration
        .map(|calibration| calibration.holding(precision, job.workload, job.model))
        .unwrap_or_default();
    let Some(nearest) = measured.iter().min_by(|a, b| a.divergence.kl_mean.total_cmp(&b.divergence.kl_mean))
    else {
        return Fit::no(format!("what {name} loses was not measured"));
    };
    let keeps = |it: &&&Measured| it.divergence.broken(job.workload.tolerance).is_empty();
    match measured.iter().find(keeps) {
        Some(chosen) => chosen_fit(job, chosen),
        None => Fit::no(format!(
            "it breaks the tolerance even with {}: {}",
            describe(nearest.candidate.held),
            clause(&nearest.divergence.broken(job.workload.tolerance))
        )),
    }
}

/// How many weights share a scale, of the layers and of a head in other groups.
pub fn parts(site: &Site<'_>) -> Result<Vec<Part>, EmitError> {
    let held = site.job.held.ok_or(EmitError::Undecided { axis: Axis::Weights })?;
    let per_scale = |name, format, why: &str| match format {
        Format::Int8(ROW) => Some(Part::count(
            name,
            ROW as usize,
            "As many weights of a row as share a scale: all, and so do activations. No row is longer.",
        )),
        Format::Int8(group) | Format::Int4(group) => Some(Part::count(name, group as usize, why)),
        Format::F32 | Format::Bf16 => None,
    };
    let mut parts = Vec::new();
    parts.extend(per_scale(
        GROUP,
        held.layers,
        "Weights of a row that share a scale, and activations that they multiply.",
    ));
    if held.head != held.layers {
        parts.extend(per_scale(
            HEAD_GROUP,
            held.head,
            "The same of the embedding and the head, which are held in more bits.",
        ));
    }
    Ok(parts)
}

fn chosen_fit(job: &Job<'_>, chosen: &Measured) -> Fit {
    let held = chosen.candidate.held;
    let bytes = held.bytes_per_pass(job.model) as f64;
    let Divergence { kl_mean, same_top, .. } = chosen.divergence;
    let text =
        if job.calibration.is_some_and(|it| it.from_samples) { "the spec's samples" } else { "drawn tokens" };
    let reason = format!(
        "{}: {:.0} MB a token, mean KL divergence {kl_mean:.1e} and same top {:.1} % on {text}, as the tolerance allows.",
        capitalised(&describe(held)),
        bytes / 1e6,
        100.0 * same_top
    );
    let fit = Fit::yes(Cost { bytes, ..Cost::default() }, reason);
    let fit = fit.with("head_bits", held.head.precision().bits());
    match held.layers {
        Format::Int8(group) | Format::Int4(group) => fit.with("group", group),
        Format::F32 | Format::Bf16 => fit,
    }
}

/// Weights in words: `int4 with a scale for every 64 weights and an int8 head`.
fn describe(held: Held) -> String {
    let layers = held.layers.precision().name();
    let group = match held.layers {
        Format::Int8(ROW) => " with a scale for every row".to_owned(),
        Format::Int8(group) | Format::Int4(group) => format!(" with a scale for every {group} weights"),
        Format::F32 | Format::Bf16 => String::new(),
    };
    let article = match held.head.precision() {
        Precision::Bf16 => "a",
        _ => "an",
    };
    format!("{layers}{group} and {article} {} head", held.head.precision().name())
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}
