//! What rounding costs, for specs that tolerate any: read where it was measured, else measured.

use std::{
    fs,
    path::{Path, PathBuf},
};

use harness::calibrate::{self, CalibrateError, Texts};
use rt::{
    chat::{ChatTemplate, Message},
    tokenizer::Tokenizer,
};
use synth::{
    calibration::{self, Calibration, Candidate},
    feasibility,
    workload::{Sample, SampleInput},
};

use crate::{
    exit::{Exit, Failure, OrExit, Outcome},
    pipeline::Asked,
    repo,
    ui::Ui,
};

/// The calibration of a workload that needs one: beside its plan, or measured here before, or measured now.
pub fn here(asked: &Asked, ui: &Ui) -> Outcome<Option<Calibration>> {
    if !calibration::is_needed(&asked.workload) {
        return Ok(None);
    }
    let texts = texts(asked)?;
    let model = calibration::model_digest(asked.model.digests().or_exit(Exit::Spec)?);
    let kept = kept(&model, &texts);
    for file in [&asked.files.calibration, &kept] {
        let found = Calibration::read(file).or_exit(Exit::Spec)?;
        if let Some(calibration) = found.filter(|it| is_current(it, asked, &model, &texts)) {
            return Ok(Some(calibration));
        }
    }
    let n = calibration::candidates(&asked.model).len();
    let calibration = measure(asked, ui, n, |progress| calibrate::calibrate(&asked.model, &texts, progress))?;
    keep(&kept, &calibration)?;
    Ok(Some(calibration))
}

/// The same calibration with what a plan wants to know beside it, measured now.
pub fn extended(
    asked: &Asked,
    mut calibration: Calibration,
    candidates: &[Candidate],
    ui: &Ui,
) -> Outcome<Calibration> {
    let texts = texts(asked)?;
    measure(asked, ui, candidates.len(), |progress| {
        calibrate::extend(&mut calibration, &asked.model, &texts, candidates, progress)
    })?;
    keep(&kept(&calibration.model, &texts), &calibration)?;
    Ok(calibration)
}

fn measure<T>(
    asked: &Asked,
    ui: &Ui,
    n_candidates: usize,
    calibrate: impl FnOnce(&dyn Fn(usize, usize)) -> Result<T, CalibrateError>,
) -> Outcome<T> {
    let step = ui.step("Calibrate", "what rounding costs");
    let note = |n: usize, of: usize| step.note(&format!("candidate {} of {of}", n + 1));
    let measured = calibrate(&note).map_err(|error| {
        let exit = if let CalibrateError::Oracle(_) = error { Exit::Internal } else { Exit::Spec };
        Failure::new(exit, format_args!("{}: {error}", repo::shown(&asked.model.folder)))
    })?;
    let took = step.done();
    ui.say("Calibrated", format_args!("{n_candidates} candidates in {:.1} s", took.as_secs_f64()));
    Ok(measured)
}

fn keep(file: &Path, calibration: &Calibration) -> Outcome {
    let folder = file.parent().unwrap_or(file);
    fs::create_dir_all(folder).and_then(|()| fs::write(file, calibration.to_json())).or_exit(Exit::Internal)
}

/// The calibration beside the plan, where one is needed. Nothing is measured.
pub fn pinned(asked: &Asked) -> Outcome<Option<Calibration>> {
    if !calibration::is_needed(&asked.workload) {
        return Ok(None);
    }
    let texts = texts(asked)?;
    let model = calibration::model_digest(asked.model.digests().or_exit(Exit::Spec)?);
    let found = Calibration::read(&asked.files.calibration).or_exit(Exit::Spec)?;
    match found.filter(|it| is_current(it, asked, &model, &texts)) {
        Some(calibration) => Ok(Some(calibration)),
        None => {
            let file = repo::shown(&asked.files.calibration);
            let name = &asked.workload.name;
            let message = format!(
                "{file} is missing, or of another model, other samples or other candidates; run `cargo xtask synth {name}`"
            );
            Err(Failure::new(Exit::Regression, message))
        }
    }
}

fn is_current(calibration: &Calibration, asked: &Asked, model: &str, texts: &Texts) -> bool {
    calibration.is_of(model, &texts.digest(), &calibration::candidates(&asked.model))
}

/// Where what was measured on this machine is kept until a plan is written.
fn kept(model: &str, texts: &Texts) -> PathBuf {
    repo::target().join("calibrations").join(format!("{model:.16}-{:.16}.json", texts.digest()))
}

/// The spec's samples as the server will see them; each that has no route, or that the template refuses, is left out.
fn texts(asked: &Asked) -> Outcome<Texts> {
    let tokenizer = Tokenizer::open(asked.model.folder.join("tokenizer.json")).or_exit(Exit::Spec)?;
    let token = |token: &Option<String>| -> &'static str { token.clone().unwrap_or_default().leak() };
    // A template wants its source for as long as the process lives, and a command reads one model.
    let template = match &asked.model.chat_template {
        Some(source) => Some(
            ChatTemplate::new(
                source.clone().leak(),
                token(&asked.model.bos_token),
                token(&asked.model.eos_token),
            )
            .or_exit(Exit::Spec)?,
        ),
        None => None,
    };
    let samples = asked.workload.samples().or_exit(Exit::Spec)?;
    let sequences = samples.iter().filter_map(|sample| tokens(sample, &tokenizer, template.as_ref()));
    let longest = feasibility::max_positions(&asked.workload);
    Ok(Texts::new(&asked.model, longest, sequences.collect()))
}

fn tokens(sample: &Sample, tokenizer: &Tokenizer, template: Option<&ChatTemplate>) -> Option<Vec<u32>> {
    match &sample.input {
        SampleInput::Prompt(text) => tokenizer.encode(text, true).ok(),
        SampleInput::Messages(messages) => {
            let messages: Vec<_> = messages
                .iter()
                .map(|message| Message {
                    role: match message.role.as_str() {
                        "system" => "system",
                        "assistant" => "assistant",
                        _ => "user",
                    },
                    content: message.content.clone(),
                    name: None,
                })
                .collect();
            tokenizer.encode(&template?.render(&messages, true).ok()?, false).ok()
        }
    }
}
