//! Greedy and sampled decoding, as the OpenAI and vLLM parameters define it.

use synth::{
    axis::Axis,
    emit::EmitError,
    mechanism::{Cost, Fit, Guarantee, Job, Mechanism, Part, Site},
};

/// Greedy or drawn from the request's own seed, with the parameters of OpenAI and vLLM.
#[derive(Debug)]
pub struct Sampling;

impl Mechanism for Sampling {
    fn name(&self) -> &'static str {
        "sampling"
    }

    fn axis(&self) -> Axis {
        Axis::Sample
    }

    fn summary(&self) -> &'static str {
        "greedy or drawn from the request's own seed, with the parameters of OpenAI and vLLM"
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::Exact
    }

    fn fit(&self, job: &Job<'_>) -> Fit {
        let routes: Vec<_> = job.workload.api.iter().map(|api| api.name()).collect();
        Fit::yes(
            Cost::default(),
            format!(
                "Clients of {} may set temperature, top-p and the rest per request.",
                routes.join(" and ")
            ),
        )
    }

    fn parts(&self, _: &Site<'_>) -> Result<Vec<Part>, EmitError> {
        Ok(vec![Part::Source { path: "src/sample.rs", text: include_str!("sample.rs") }])
    }
}
