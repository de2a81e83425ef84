//! llama.cpp's own server, built for this machine and fed GGUF that [`super::gguf`] writes and, where the race is held
//! in whole numbers, llama.cpp's own quantiser rounds.

mod install;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use synth::model::{Dtype, Family, Model};

use super::{
    Format, Job, Knob, Prepared, READY_WITHIN, Reference, ReferenceError, Settings, arguments, gguf, knob,
    steps, thread_counts,
};
use crate::load::Wire;
use crate::process::Launch;

use install::INSTALLATION;

/// Counts up when the GGUF writer writes other bytes for the same model, so that no stale file is raced.
const WRITER: u32 = 1;

/// llama.cpp as a reference runtime.
#[derive(Debug, Clone, Copy)]
pub struct LlamaCpp;

impl Reference for LlamaCpp {
    fn name(&self) -> &'static str {
        INSTALLATION.name
    }

    fn version(&self) -> &'static str {
        INSTALLATION.version
    }

    fn is_installed(&self, target_dir: &Path) -> bool {
        INSTALLATION.installed(target_dir).is_some()
    }

    fn install(&self, target_dir: &Path, progress: &dyn Fn(&str)) -> Result<PathBuf, ReferenceError> {
        INSTALLATION.make(target_dir, progress)
    }

    fn prepare(&self, job: &Job, progress: &dyn Fn(&str)) -> Result<Prepared, ReferenceError> {
        let program = INSTALLATION
            .installed(&job.target_dir)
            .ok_or(ReferenceError::Missing { name: self.name(), cure: "cargo xtask reference llama.cpp" })?;
        let model = Model::read(&job.model_dir)?;
        if let Some(reason) = unfaithful(&model, job.context) {
            return Err(ReferenceError::Unsupported {
                name: self.name(),
                model: job.model_dir.clone(),
                reason,
            });
        }
        let model = match quantisation(job.format) {
            None => written(&model, job, stored_as(&model, job.format), progress)?,
            Some(kind) => quantised(&model, job, kind, progress)?,
        };
        Ok(Prepared { program, model })
    }

    fn knobs(&self, job: &Job) -> Vec<Knob> {
        vec![
            thread_counts(job.threads),
            knob("flash_attn", &["on", "off"]),
            knob("kv_type", &["f16", "bf16", "f32"]),
            knob("ubatch", &["512", "128"]),
            knob("poll", &["50", "0"]),
            knob("cache_ram", &["8192", "0"]),
        ]
    }

    fn launch(&self, prepared: &Prepared, job: &Job, settings: &Settings, listen: SocketAddr) -> Launch {
        let setting = |name| settings.get(name).into();
        let mut args = arguments([
            ("--model", prepared.model.clone().into_os_string()),
            ("--host", listen.ip().to_string().into()),
            ("--port", listen.port().to_string().into()),
            ("--parallel", job.concurrency.to_string().into()),
            // Shared out evenly among the slots.
            ("--ctx-size", (job.context * job.concurrency).to_string().into()),
            ("--threads", setting("threads")),
            ("--threads-batch", setting("threads")),
            ("--flash-attn", setting("flash_attn")),
            ("--cache-type-k", setting("kv_type")),
            ("--cache-type-v", setting("kv_type")),
            ("--ubatch-size", setting("ubatch")),
            ("--poll", setting("poll")),
            ("--cache-ram", setting("cache_ram")),
        ]);
        args.push("--offline".into());
        Launch {
            program: prepared.program.clone(),
            args,
            env: Vec::new(),
            listen,
            ready_path: "/health",
            timeout: READY_WITHIN,
            log: job.home(self.name()).join(format!("server-{}.log", listen.port())),
        }
    }

    fn wire(&self) -> Wire {
        Wire::LlamaCpp
    }
}

/// llama.cpp's usual quantisation of a width. Both keep vectors in f32, and `Q4_0` keeps a head of six bits.
fn quantisation(format: Format) -> Option<&'static str> {
    match format {
        Format::F32 | Format::Bf16 => None,
        Format::Int8 => Some("Q8_0"),
        Format::Int4 => Some("Q4_0"),
    }
}

/// How matrices are written: as the race wants them; before rounding, without losing anything of what is stored.
fn stored_as(model: &Model, format: Format) -> gguf::Stored {
    let is_bf16 = model.weights.iter().flat_map(|shard| &shard.tensors).all(|fact| fact.dtype == Dtype::Bf16);
    match format {
        Format::Bf16 => gguf::Stored::Bf16,
        Format::Int8 | Format::Int4 if is_bf16 => gguf::Stored::Bf16,
        _ => gguf::Stored::F32,
    }
}

/// The model as GGUF, written unless it was before.
fn written(
    model: &Model,
    job: &Job,
    stored: gguf::Stored,
    progress: &dyn Fn(&str),
) -> Result<PathBuf, ReferenceError> {
    let path = job.converted(INSTALLATION.name, model, &format!("{stored:?}-v{WRITER}.gguf"))?;
    if !path.is_file() {
        progress("writing the model as GGUF");
        gguf::convert(model, stored, &path, &mut |written, total| {
            progress(&format!("GGUF: {} of {} MiB", written >> 20, total >> 20));
        })?;
    }
    Ok(path)
}

/// The model as llama.cpp's own tool rounds it, rounded unless it was before.
fn quantised(
    model: &Model,
    job: &Job,
    kind: &'static str,
    progress: &dyn Fn(&str),
) -> Result<PathBuf, ReferenceError> {
    let path = job.converted(INSTALLATION.name, model, &format!("{kind}-v{WRITER}.gguf"))?;
    if !path.is_file() {
        let source = written(model, job, stored_as(model, job.format), progress)?;
        let partial = path.with_extension("partial");
        let home = job.home(INSTALLATION.name);
        let mut command = Command::new(home.join("build/bin/llama-quantize"));
        command.args([source.as_os_str(), partial.as_os_str(), kind.as_ref()]).arg(job.threads.to_string());
        steps::run("quantising", command, &home.join("quantise.log"), progress)?;
        std::fs::rename(&partial, &path)
            .map_err(|source| ReferenceError::File { path: path.clone(), source })?;
    }
    Ok(path)
}

/// Why llama.cpp would compute another model than this one, if it would.
fn unfaithful(model: &Model, context: usize) -> Option<String> {
    match (model.family, model.sliding_window) {
        (Family::Mistral, Some(window)) if window < context => Some(format!(
            "its Llama architecture, which Mistral runs as, has no sliding window, and this one of {window} is \
             shorter than the context of {context}"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::python::unpinned;

    #[test]
    fn everything_fetched_is_pinned() {
        for (name, text) in INSTALLATION.files.iter().filter(|(name, _)| name.ends_with(".txt")) {
            assert_eq!(unpinned(text), [""; 0], "{name}");
        }
    }

    #[test]
    fn rounding_starts_from_all_that_is_stored() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models");
        let of = |name: &str| Model::read(&folder.join(name)).unwrap_or_else(|errors| panic!("{errors}"));
        let mut model = of("quickstart");
        assert_eq!(stored_as(&model, Format::Int4), gguf::Stored::Bf16);
        model.weights[0].tensors[0].dtype = Dtype::F32;
        assert_eq!(stored_as(&model, Format::Int4), gguf::Stored::F32);
        assert_eq!(stored_as(&model, Format::Bf16), gguf::Stored::Bf16, "a race in bf16 is held in bf16");
    }
}
