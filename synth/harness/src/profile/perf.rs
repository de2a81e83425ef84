//! `perf`: recording, and reading what it reports.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

use super::{LEAST_SHARE, ProfileError, Share};

/// Samples a second and thread. The clock of the system, for many virtual machines hide the processor's own counters.
const RATE: &str = "2000";

/// A process that is being sampled.
pub struct Recording {
    perf: Child,
    data: PathBuf,
}

/// What was sampled.
pub struct Recorded {
    data: PathBuf,
}

impl Recording {
    /// Begins to sample the threads of a process.
    pub fn start(pid: u32, data: PathBuf) -> Result<Self, ProfileError> {
        let perf = tokio::process::Command::new("perf")
            .args(["record", "--event", "cpu-clock", "--freq", RATE, "--pid", &pid.to_string(), "--output"])
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(ProfileError::NoPerf)?;
        Ok(Self { perf, data })
    }

    /// Ends it.
    pub async fn end(self) -> Result<Recorded, ProfileError> {
        let Self { perf, data } = self;
        // Where it ended by itself its message says why.
        if let Some(pid) = perf.id().and_then(|pid| Pid::from_raw(pid as i32)) {
            kill_process(pid, Signal::INT).ok();
        }
        let output = perf.wait_with_output().await.map_err(ProfileError::NoPerf)?;
        let message = String::from_utf8_lossy(&output.stderr);
        // Interrupted, it ends with the signal's status though all is well.
        match message.contains("Captured and wrote") {
            true => Ok(Recorded { data }),
            false => Err(ProfileError::Perf { what: "record", message: message.trim().to_owned() }),
        }
    }
}

impl Recorded {
    /// Functions, most samples first.
    pub fn functions(&self) -> Result<Vec<Share>, ProfileError> {
        let text = self.report("report", &["--sort", "sym"])?;
        Ok(functions(&text))
    }

    /// The instructions of a function, in their order.
    pub fn instructions(&self, function: &str) -> Result<Vec<Share>, ProfileError> {
        let text = self.report("annotate", &["--symbol", function])?;
        Ok(instructions(&text))
    }

    fn report(&self, what: &'static str, args: &[&str]) -> Result<String, ProfileError> {
        let Output { status, stdout, stderr } = Command::new("perf")
            .args([what, "--stdio", "--input"])
            .arg(&self.data)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .map_err(ProfileError::NoPerf)?;
        match status.success() {
            true => Ok(String::from_utf8_lossy(&stdout).into_owned()),
            false => {
                Err(ProfileError::Perf { what, message: String::from_utf8_lossy(&stderr).trim().to_owned() })
            }
        }
    }
}

/// Lines such as `    23.40%  [.] a_crate::kernels::matmul::strips`; those of one name are added.
fn functions(report: &str) -> Vec<Share> {
    let mut shares: BTreeMap<&str, f64> = BTreeMap::new();
    for line in report.lines() {
        let Some((percent, symbol)) = line.trim().split_once('%') else { continue };
        let (Ok(percent), Some((_, name))) = (percent.parse::<f64>(), symbol.split_once("] ")) else {
            continue;
        };
        *shares.entry(name.trim()).or_default() += percent / 100.0;
    }
    let mut functions: Vec<Share> = shares
        .into_iter()
        .filter(|(_, share)| *share >= LEAST_SHARE)
        .map(|(name, share)| Share { name: name.to_owned(), share })
        .collect();
    functions.sort_by(|a, b| b.share.total_cmp(&a.share));
    functions
}

/// Lines such as `   18.43 :   243c3b: tileloadd 0x0(%r13,%rsi,1),%tmm4`, of the first function of the name, which is the one
/// with most samples.
fn instructions(annotated: &str) -> Vec<Share> {
    let mut instructions = Vec::new();
    let mut n_heads = 0;
    for line in annotated.lines() {
        n_heads += usize::from(line.trim_start().starts_with("Percent"));
        if n_heads > 1 {
            break;
        }
        let mut parts = line.splitn(3, ':');
        let (Some(percent), Some(address), Some(text)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let is_address = u64::from_str_radix(address.trim(), 16).is_ok();
        match percent.trim().parse::<f64>() {
            Ok(percent) if is_address && percent >= 100.0 * LEAST_SHARE => instructions.push(Share {
                name: text.split_whitespace().collect::<Vec<_>>().join(" "),
                share: percent / 100.0,
            }),
            _ => {}
        }
    }
    instructions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_one_name_are_one_and_rare_ones_are_left_out() {
        let report = "# Overhead  Symbol\n#\n    10.42%  [.] a::kernels::matmul::strips\n     8.00%  [.] a::kernels::attend\n     \
                      4.58%  [.] a::kernels::matmul::strips\n     0.40%  [k] clear_page\n\n";
        let found = functions(report);
        assert_eq!(
            found.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(),
            ["a::kernels::matmul::strips", "a::kernels::attend"]
        );
        assert!((found[0].share - 0.15).abs() < 1e-9);
    }

    #[test]
    fn instructions_are_those_of_the_first_function_alone() {
        let text = " Percent |      Source code & Disassembly of a for cpu-clock (9 samples)\n\
                    ----------------\n         :   5 243c30 <a>:\n    0.10 :   243c38:  mov %rax,%rbx\n   \
                    18.43 :   243c3b:  tileloadd 0x0(%r13,%rsi,1),%tmm4 // a.rs:3\n\
                    Percent |      Source\n   30.00 :   244fbb:  vmovups (%rax),%zmm0\n";
        let found = instructions(text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "tileloadd 0x0(%r13,%rsi,1),%tmm4 // a.rs:3");
        assert!((found[0].share - 0.1843).abs() < 1e-9);
    }
}
