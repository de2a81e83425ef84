//! ONNX Runtime GenAI, behind the small server in `references/onnxruntime`; models are written by its own model builder.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use synth::model::Model;

use super::install::{Installation, Need};
use super::{
    Format, Job, Knob, Prepared, READY_WITHIN, Reference, ReferenceError, Settings, arguments, knob, python,
    thread_counts,
};
use crate::load::Wire;
use crate::process::Launch;

/// The runtime and its model builder. torch is there to read checkpoints; nothing of it runs in a race.
const INSTALLATION: Installation = Installation {
    name: "onnxruntime",
    version: "onnxruntime-genai 0.18.0",
    files: &[
        ("requirements.txt", include_str!("../../references/onnxruntime/requirements.txt")),
        ("without_cuda.py", python::WITHOUT_CUDA),
    ],
    route: &[
        python::MAKE,
        ("fetching ONNX Runtime GenAI and its model builder (0.7 GB)", python::FETCH),
        python::STAND_IN,
    ],
    program: "venv/bin/python",
    needs: &[Need::C],
};

/// The server, put beside the environment when it is started.
const SERVER: [(&str, &str); 2] = [
    ("server.py", include_str!("../../references/onnxruntime/server.py")),
    ("completions.py", python::COMPLETIONS),
];

/// Counts up when models are written otherwise than before.
const BUILDER: u32 = 1;

/// The batch that the engine has of itself.
const USUAL_BATCH: usize = 4;

/// ONNX Runtime GenAI as a reference runtime.
#[derive(Debug, Clone, Copy)]
pub struct OnnxRuntime;

impl Reference for OnnxRuntime {
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

    fn lacks(&self, format: Format) -> Option<&'static str> {
        (format == Format::Bf16).then_some(
            "what its model builder writes in bf16 has nodes that ONNX Runtime has no implementation of on a CPU",
        )
    }

    fn prepare(&self, job: &Job, progress: &dyn Fn(&str)) -> Result<Prepared, ReferenceError> {
        let program = INSTALLATION.installed(&job.target_dir).ok_or(ReferenceError::Missing {
            name: self.name(),
            cure: "cargo xtask reference onnxruntime",
        })?;
        let home = job.home(self.name());
        python::place(&home, &SERVER)?;
        let model = Model::read(&job.model_dir)?;
        let folder = job.converted(self.name(), &model, &format!("{}-v{BUILDER}", job.format))?;
        if !folder.is_dir() {
            python::convert(&folder, &home, progress, |partial| {
                let mut command = Command::new(&program);
                command
                    .args(["-m", "onnxruntime_genai.models.builder", "-e", "cpu"])
                    .args(["-p", precision(job.format)])
                    .arg("-c")
                    .arg(home.join("cache"))
                    .arg("-i")
                    .arg(&job.model_dir)
                    .arg("-o")
                    .arg(partial);
                command
            })?;
        }
        Ok(Prepared { program, model: folder })
    }

    fn knobs(&self, job: &Job) -> Vec<Knob> {
        let mut batches = vec![job.concurrency.to_string()];
        if job.concurrency > USUAL_BATCH {
            batches.push(USUAL_BATCH.to_string());
        }
        vec![
            thread_counts(job.threads),
            Knob { name: "batch", values: batches },
            knob("spinning", &["on", "off"]),
        ]
    }

    fn launch(&self, prepared: &Prepared, job: &Job, settings: &Settings, listen: SocketAddr) -> Launch {
        let home = job.home(self.name());
        let setting = |name| settings.get(name).into();
        let mut args = vec![home.join("server.py").into_os_string()];
        args.extend(arguments([
            ("--model", prepared.model.clone().into_os_string()),
            ("--listen", listen.to_string().into()),
            ("--context", job.context.to_string().into()),
            ("--concurrency", job.concurrency.to_string().into()),
            ("--threads", setting("threads")),
            ("--batch", setting("batch")),
            ("--spinning", setting("spinning")),
        ]));
        Launch {
            program: prepared.program.clone(),
            args,
            env: Vec::new(),
            listen,
            ready_path: "/health",
            timeout: READY_WITHIN,
            log: home.join(format!("server-{}.log", listen.port())),
        }
    }

    fn wire(&self) -> Wire {
        Wire::OpenAi { model: self.name().to_owned() }
    }
}

/// The builder's word for a format. Its whole numbers are in blocks of 32, with activations rounded to 8 bits; the head
/// is rounded too, the embedding is not. Its head for the last position alone would read prompts faster, and does not
/// work in the engine's batches.
fn precision(format: Format) -> &'static str {
    match format {
        Format::F32 => "fp32",
        Format::Bf16 => "bf16",
        Format::Int8 => "int8",
        Format::Int4 => "int4",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_fetched_is_pinned() {
        let pins = INSTALLATION.files[0].1;
        assert_eq!(python::unpinned(pins), [""; 0]);
        assert!(pins.contains(&INSTALLATION.version.replace(' ', "==")));
    }

    #[test]
    fn what_it_lacks_is_said_and_the_rest_is_not() {
        let lacking: Vec<_> = Format::ALL.into_iter().filter(|it| OnnxRuntime.lacks(*it).is_some()).collect();
        assert_eq!(lacking, [Format::Bf16]);
    }

    #[test]
    fn the_engines_own_batch_is_tried_where_it_is_another() {
        let batches = |concurrency| {
            let job = Job {
                model_dir: "model".into(),
                threads: 2,
                context: 64,
                concurrency,
                format: Format::Int4,
                target_dir: "target".into(),
                tuning_dir: None,
            };
            OnnxRuntime.knobs(&job).into_iter().find(|knob| knob.name == "batch").map(|knob| knob.values)
        };
        assert_eq!(batches(8), Some(vec!["8".into(), "4".into()]));
        assert_eq!(batches(2), Some(vec!["2".into()]));
    }
}
