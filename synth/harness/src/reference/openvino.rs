//! OpenVINO GenAI, behind the small server in `references/openvino`; models are converted and compressed by the tools
//! of its makers, `optimum-intel` and `nncf`.

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

/// The runtime and its tools. torch is there to read checkpoints; nothing of it runs in a race.
const INSTALLATION: Installation = Installation {
    name: "openvino",
    version: "openvino-genai 2026.4.1",
    files: &[
        ("requirements.txt", include_str!("../../references/openvino/requirements.txt")),
        ("without_cuda.py", python::WITHOUT_CUDA),
    ],
    route: &[
        python::MAKE,
        ("fetching OpenVINO GenAI and its converter (0.8 GB)", python::FETCH),
        python::STAND_IN,
    ],
    program: "venv/bin/python",
    needs: &[Need::C],
};

/// The server, put beside the environment when it is started.
const SERVER: [(&str, &str); 2] = [
    ("server.py", include_str!("../../references/openvino/server.py")),
    ("completions.py", python::COMPLETIONS),
];

/// Counts up when models are converted otherwise than before.
const CONVERTER: u32 = 1;

/// OpenVINO GenAI as a reference runtime.
#[derive(Debug, Clone, Copy)]
pub struct OpenVino;

impl Reference for OpenVino {
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
            .ok_or(ReferenceError::Missing { name: self.name(), cure: "cargo xtask reference openvino" })?;
        let home = job.home(self.name());
        python::place(&home, &SERVER)?;
        let model = Model::read(&job.model_dir)?;
        let folder = job.converted(self.name(), &model, &format!("{}-v{CONVERTER}", job.format))?;
        if !folder.is_dir() {
            python::convert(&folder, &home, progress, |partial| {
                let mut command = Command::new(home.join("venv/bin/optimum-cli"));
                command
                    .args(["export", "openvino", "--task", "text-generation-with-past", "--model"])
                    .arg(&job.model_dir)
                    .args(compression(job.format))
                    .arg(partial);
                command
            })?;
        }
        Ok(Prepared { program, model: folder })
    }

    fn knobs(&self, job: &Job) -> Vec<Knob> {
        let mut knobs = vec![thread_counts(job.threads)];
        // What matrices are multiplied in, and what keys and values are kept in; the second is the engine's default.
        let (precision, kv): (&[_], &[_]) = match job.format {
            Format::F32 => (&["f32"], &["f32", "u8"]),
            Format::Bf16 => (&["bf16", "f32"], &["bf16", "u8"]),
            Format::Int8 | Format::Int4 => (&["bf16", "f32"], &["u8", "bf16"]),
        };
        knobs.push(knob("precision", precision));
        knobs.push(knob("kv", kv));
        if job.format.is_quantised() {
            knobs.push(knob("dynamic_group", &["32", "0"]));
        }
        knobs.push(knob("batched_tokens", &["256", "1024"]));
        knobs.push(knob("pinning", &["on", "off"]));
        knobs
    }

    fn launch(&self, prepared: &Prepared, job: &Job, settings: &Settings, listen: SocketAddr) -> Launch {
        let home = job.home(self.name());
        let setting = |name| settings.get(name).into();
        let dynamic_group = if job.format.is_quantised() { setting("dynamic_group") } else { "0".into() };
        let mut args = vec![home.join("server.py").into_os_string()];
        args.extend(arguments([
            ("--model", prepared.model.clone().into_os_string()),
            ("--listen", listen.to_string().into()),
            ("--context", job.context.to_string().into()),
            ("--concurrency", job.concurrency.to_string().into()),
            ("--threads", setting("threads")),
            ("--precision", setting("precision")),
            ("--kv", setting("kv")),
            ("--dynamic-group", dynamic_group),
            ("--batched-tokens", setting("batched_tokens")),
            ("--pinning", setting("pinning")),
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

/// How weights are compressed: OpenVINO's usual form of each width. `fp16` holds what bf16 holds, and is what the
/// engine expects of 16 bits. Whole numbers are per channel at 8 bits and per group at 4, embedding and head at 8.
fn compression(format: Format) -> &'static [&'static str] {
    match format {
        Format::F32 => &["--weight-format", "fp32"],
        Format::Bf16 => &["--weight-format", "fp16"],
        Format::Int8 => &["--weight-format", "int8"],
        Format::Int4 => &[
            "--weight-format",
            "int4",
            "--sym",
            "--ratio",
            "1.0",
            "--group-size",
            "128",
            // A width that 128 does not divide takes the largest group that does.
            "--group-size-fallback",
            "adjust",
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::sweep;

    fn job(format: Format) -> Job {
        Job {
            model_dir: "model".into(),
            threads: 2,
            context: 64,
            concurrency: 3,
            format,
            target_dir: "target".into(),
            tuning_dir: None,
        }
    }

    #[test]
    fn everything_fetched_is_pinned() {
        assert_eq!(python::unpinned(INSTALLATION.files[0].1), [""; 0]);
    }

    #[test]
    fn the_version_raced_is_the_one_that_is_pinned() {
        let version = INSTALLATION.version.replace(' ', "==");
        assert!(INSTALLATION.files[0].1.contains(&version), "{version}");
    }

    #[test]
    fn every_knob_reaches_the_command_line() {
        for format in Format::ALL {
            let job = job(format);
            let prepared = Prepared { program: "python".into(), model: "converted".into() };
            let listen = "127.0.0.1:9".parse().expect("an address");
            let flags =
                |settings: &Settings| sweep::flags(&OpenVino.launch(&prepared, &job, settings, listen));
            let knobs = OpenVino.knobs(&job);
            let usual = Settings::first(&knobs);
            assert!(!flags(&usual).contains(&String::new()), "{format}: {:?}", flags(&usual));
            for knob in &knobs {
                for value in knob.values.iter().skip(1) {
                    assert_ne!(
                        flags(&usual.with(knob.name, value)),
                        flags(&usual),
                        "{format}: {}",
                        knob.name
                    );
                }
            }
        }
    }
}
