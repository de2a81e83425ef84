//! Where the time of a row goes: the own server under that row's load, sampled by Linux's `perf`.
//!
//! Shares of samples, and no latency: what a row takes is told by a race, of a proven binary. A sample is the instruction
//! that was about to retire, so that of a loop those stand out that wait.

mod perf;

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::bench::{Contender, Work, run_block};
use crate::client::Client;
use crate::load::Target;
use crate::process::{ProcessError, Server};
use crate::suite::{Effort, Job, Row};

use perf::Recording;

/// How long a row is sampled.
const SAMPLED: Duration = Duration::from_secs(8);

/// How long one block may take, loads of long prompts included.
const GRACE: Duration = Duration::from_secs(60);

/// Functions and instructions with less than this share of samples are not told.
const LEAST_SHARE: f64 = 0.01;

/// Where time went.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Profile {
    /// The load in words.
    pub what: String,
    /// Functions, most of the samples first. Those of one name, made for several shapes, are one.
    pub functions: Vec<Share>,
    /// Instructions of the function with most samples, in their order, each with its share of that function's.
    pub hottest: Vec<Share>,
}

/// A part of the samples.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Share {
    /// A function's name, or an instruction.
    pub name: String,
    /// Its part of all.
    pub share: f64,
}

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields hold")]
pub enum ProfileError {
    #[error(transparent)]
    Server(#[from] ProcessError),
    #[error("a request was not answered: {0}")]
    Unanswered(String),
    #[error("cannot run perf: {0}; it comes with Linux's tools")]
    NoPerf(io::Error),
    #[error("perf {what}: {message}")]
    Perf { what: &'static str, message: String },
}

/// Samples the server of `own` under the load of a row. `home` keeps what perf recorded.
///
/// # Errors
/// When the server does not start or answer, or perf may not sample it.
pub async fn profile(
    job: &Job<'_>,
    row: Row,
    own: &Contender,
    home: &Path,
    progress: &dyn Fn(&str),
) -> Result<Profile, ProfileError> {
    let server = Server::start(own.launch.clone()).await?;
    let target = Target::new(Client::new(server.addr()).timeout(GRACE), own.wire.clone());
    let mut loads = job.loads(row, Effort::full());
    progress("once, to warm up");
    answered(&target, &loads.next_block()).await?;
    let recording = Recording::start(server.pid(), home.join(format!("{}.perf", own.name)))?;
    let started = Instant::now();
    while started.elapsed() < SAMPLED {
        progress(&format!("sampled for {} s", started.elapsed().as_secs()));
        answered(&target, &loads.next_block()).await?;
    }
    let recorded = recording.end().await?;
    server.stop().await?;
    let functions = recorded.functions()?;
    let hottest = functions.first().map_or(Ok(vec![]), |first| recorded.instructions(&first.name))?;
    Ok(Profile { what: loads.words(), functions, hottest })
}

async fn answered(target: &Target, work: &Work) -> Result<(), ProfileError> {
    let block = run_block(target, work, GRACE).await;
    match block.records.iter().find(|record| !record.is_complete()) {
        Some(record) => Err(ProfileError::Unanswered(format!("{:?}", record.outcome))),
        None => Ok(()),
    }
}
