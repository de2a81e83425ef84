//! What a served token costs, in numbers that no clock and no neighbour changes: allocations, system calls, instructions
//! and touched memory.
//!
//! Each is a slope: the same request with some tokens more, and the difference over those tokens, so that what a request
//! costs once cancels. What this machine does not let us count is said by name, and is no number.

mod bounds;
mod trace;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::bench::Contender;
use crate::client::Client;
use crate::load::{Request, Target};
use crate::process::Server;

pub use bounds::{Bounds, BoundsError, Findings};

use trace::{Processor, Tracer, What};

/// A number, or why there is none.
pub type Count = Result<f64, String>;

/// What a token costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// Calls of the allocator by the engine's thread for each decoded token.
    pub allocations_per_token: Count,
    /// System calls of the engine's thread for each decoded token, but for waking its workers.
    pub system_calls_per_token: Count,
    /// Times that the engine's thread gave up its core for each decoded token.
    pub switches_per_token: Count,
    /// Instructions for each decoded token, all done by the engine's thread; one by one, of a token at the median context.
    pub instructions_per_token: Count,
    /// Those among them that multiply and add: vectors of f32, dot products of vectors, tiles.
    pub multiplications_per_token: Count,
    /// Instructions for each token of a prompt.
    pub instructions_per_prompt_token: Count,
    /// Bytes of the weight image that a decoded token touches.
    pub weight_bytes_per_token: Count,
    /// Bytes of memory that a decoded token touches more for each position before it.
    pub kv_bytes_per_position: Count,
    /// Bytes of memory without a file that the server holds once all that it reserves is granted.
    pub reserved_bytes: Count,
}

/// Why nothing could be counted at all.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields hold")]
pub enum CountersError {
    #[error("{0}")]
    Server(#[from] crate::process::ProcessError),
    #[error("a request was not answered: {0}")]
    Unanswered(String),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
}

/// The source of what counts allocations.
const PRELOAD: &str = include_str!("counters/preload.rs");

/// Threads of one process never share a place: see `preload.rs`.
const PLACES: usize = 1 << 16;

/// How instructions are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instructions {
    /// By the processor, where the system lets us.
    Processor,
    /// One at a time: a minute for a token of half a million instructions.
    OneByOne,
}

/// One answer, while each instruction is counted, takes this long at most.
const WITHIN: Duration = Duration::from_secs(240);

/// Tokens of the two answers whose difference is counted where counting is free.
const ANSWERS: [usize; 2] = [32, 96];

/// The two prompts whose reading is counted: a tile of rows, and one more.
const PROMPTS: [usize; 2] = [16, 32];

/// Positions before the tokens whose touched memory is compared.
const DEPTHS: [usize; 2] = [256, 1024];

/// Counts what the server of `contender` does for a token. `home` is where the counting library is made; `context` the
/// positions of a prompt of which all but the last are known when it is asked again, where the server remembers any.
///
/// # Errors
/// When the server does not start or answer, or a file cannot be written.
pub async fn count(
    contender: &Contender,
    vocab: usize,
    home: &Path,
    by: Instructions,
    context: Option<usize>,
    progress: &dyn Fn(&str),
) -> Result<Counters, CountersError> {
    progress("allocations and switches");
    let allocations = allocations(contender, vocab, home).await?;
    let subject = Subject::start(contender, vec![], vocab).await?;
    let switches = subject.slope(ANSWERS, |it| switches(it.engine()?)).await?;
    progress("system calls");
    let system_calls = subject.system_calls().await?;
    progress("touched memory");
    // What is granted counts as touched.
    subject.server.settled_rss_bytes().await?;
    let reserved = subject.mapped("Anonymous:").map(|(_, bytes)| bytes as f64).map_err(|it| it.to_string());
    let (weights, kv) = subject.touched().await?;
    progress("instructions");
    let hidden = || Err("they are only told from others one by one".to_owned());
    let (instructions, multiplications, prompt) = match by {
        Instructions::Processor => {
            let each = subject.instructions(ANSWERS.map(|n| (16, n))).await?;
            let prompt = subject.instructions(PROMPTS.map(|n| (n, 1))).await?;
            (each, hidden(), prompt)
        }
        Instructions::OneByOne => {
            let [all, multiplying] = subject.one_by_one(context).await?;
            (all, multiplying, Err("a prompt takes too long one by one".to_owned()))
        }
    };
    subject.server.stop().await?;
    Ok(Counters {
        allocations_per_token: allocations,
        system_calls_per_token: system_calls,
        switches_per_token: switches,
        instructions_per_token: instructions,
        multiplications_per_token: multiplications,
        instructions_per_prompt_token: prompt,
        weight_bytes_per_token: weights,
        kv_bytes_per_position: kv,
        reserved_bytes: reserved,
    })
}

/// A server that is counted.
struct Subject {
    server: Server,
    target: Target,
    vocab: usize,
    image: PathBuf,
}

impl Subject {
    async fn start(
        contender: &Contender,
        env: Vec<(String, String)>,
        vocab: usize,
    ) -> Result<Self, CountersError> {
        let mut launch = contender.launch.clone();
        launch.env.extend(env);
        let image = launch.args.get(1).map(PathBuf::from).unwrap_or_default();
        // A page of two megabytes is touched as a whole; the flag passes on to what is started.
        huge_pages(false);
        let started = Server::start(launch).await;
        huge_pages(true);
        let server = started?;
        let target = Target::new(Client::new(server.addr()).timeout(WITHIN), contender.wire.clone());
        let subject = Self { server, target, vocab, image };
        // Buffers that grow with use have grown, and the pool has started.
        subject.ask(48, ANSWERS[1], 1).await?;
        subject.ask(16, ANSWERS[1], 2).await?;
        Ok(subject)
    }

    /// A request of ids that differ with `seed`, so that nothing is answered from a cache.
    async fn ask(&self, n_prompt: usize, max_tokens: usize, seed: usize) -> Result<(), CountersError> {
        // Strides that share no factor with most vocabularies.
        let prompt =
            (0..n_prompt).map(|idx| ((idx * 7919 + seed * 104_729 + 11) % self.vocab) as u32).collect();
        let record = self.target.ask(&Request { prompt, max_tokens }, WITHIN).await;
        match record.is_complete() {
            true => Ok(()),
            false => Err(CountersError::Unanswered(format!("{:?}", record.outcome))),
        }
    }

    /// The threads whose names begin so.
    fn threads(&self, name: &str) -> io::Result<Vec<i32>> {
        let folder = format!("/proc/{}/task", self.server.pid());
        let mut found = Vec::new();
        for thread in fs::read_dir(folder)? {
            let thread = thread?;
            if fs::read_to_string(thread.path().join("comm"))?.starts_with(name) {
                found.extend(thread.file_name().to_string_lossy().parse::<i32>());
            }
        }
        Ok(found)
    }

    fn engine(&self) -> io::Result<i32> {
        self.threads("engine")?.first().copied().ok_or_else(|| io::Error::other("no thread is called engine"))
    }

    /// The slope of a count that can be read at any time.
    async fn slope(
        &self,
        answers: [usize; 2],
        read: impl Fn(&Self) -> io::Result<u64>,
    ) -> Result<Count, CountersError> {
        let mut counts = [0u64; 2];
        for (seed, (count, n)) in counts.iter_mut().zip(answers).enumerate() {
            let before = match read(self) {
                Ok(before) => before,
                Err(error) => return Ok(Err(error.to_string())),
            };
            self.ask(16, n, 10 + seed).await?;
            settle().await;
            *count = read(self).map_or(0, |after| after - before);
        }
        let tokens = (answers[1] - answers[0]) as f64;
        Ok(Ok((counts[1] as f64 - counts[0] as f64) / tokens))
    }

    /// System calls of the engine's thread for each decoded token. The pool is held: a thread that is followed is so slow
    /// that its workers would go to sleep in each region, and waking them would be counted.
    async fn system_calls(&self) -> Result<Count, CountersError> {
        let mut counts = [0u64; 2];
        let held = match self.threads("pool-") {
            Ok(held) => held,
            Err(error) => return Ok(Err(error.to_string())),
        };
        for (seed, (count, n)) in counts.iter_mut().zip(ANSWERS).enumerate() {
            match self.followed(What::SystemCalls, held.clone(), (16, n), 20 + seed).await? {
                Ok([calls, _]) => *count = calls,
                Err(why) => return Ok(Err(why)),
            }
        }
        Ok(Ok((counts[1] as f64 - counts[0] as f64) / (ANSWERS[1] - ANSWERS[0]) as f64))
    }

    /// Instructions of a token, and those among them that multiply, one at a time: of a prompt of which all but the last
    /// token is known, answered with one. What a request costs beside its token is below a hundredth.
    async fn one_by_one(&self, context: Option<usize>) -> Result<[Count; 2], CountersError> {
        let uncounted = |why: String| Ok([Err(why.clone()), Err(why)]);
        let Some(context) = context else {
            return uncounted("without a prefix cache the whole prompt would be counted".to_owned());
        };
        let held = match self.threads("pool-") {
            Ok(held) => held,
            Err(error) => return uncounted(error.to_string()),
        };
        self.ask(context, 1, 40).await?;
        let counts = self.followed(What::Instructions, held, (context, 1), 40).await?;
        Ok([0, 1].map(|of| counts.clone().map(|counts| counts[of] as f64)))
    }

    /// Instructions for each token more of an answer, or of a prompt, by the processor's own counter.
    async fn instructions(&self, requests: [(usize, usize); 2]) -> Result<Count, CountersError> {
        let mut counts = [0u64; 2];
        for (seed, (count, (n_prompt, n_output))) in counts.iter_mut().zip(requests).enumerate() {
            let begin = || -> io::Result<_> {
                let engine = self.engine()?;
                Ok((Processor::begin(engine)?, Tracer::begin(What::Held, engine, self.threads("pool-")?)?))
            };
            let (processor, tracer) = match begin() {
                Ok(begun) => begun,
                Err(error) => return Ok(Err(format!("the processor's counter cannot be asked: {error}"))),
            };
            self.ask(n_prompt, n_output, 60 + 100 * requests[0].1 + seed).await?;
            settle().await;
            match processor.count().and_then(|found| tracer.end().map(|()| found)) {
                Ok(found) => *count = found,
                Err(error) => return Ok(Err(error.to_string())),
            }
        }
        let [(few_in, few_out), (more_in, more_out)] = requests;
        let tokens = (more_in - few_in + more_out - few_out) as f64;
        Ok(Ok((counts[1] as f64 - counts[0] as f64) / tokens))
    }

    /// What the engine's thread does for one request, counted by following it.
    async fn followed(
        &self,
        what: What,
        held: Vec<i32>,
        (n_prompt, n_output): (usize, usize),
        seed: usize,
    ) -> Result<Result<[u64; 2], String>, CountersError> {
        let tracer = match self.engine().and_then(|engine| Tracer::begin(what, engine, held)) {
            Ok(tracer) => tracer,
            Err(error) => return Ok(Err(format!("the kernel refuses to follow a thread: {error}"))),
        };
        self.ask(n_prompt, n_output, seed).await?;
        idle(&tracer).await;
        let counts = tracer.count();
        Ok(tracer.end().map(|()| counts).map_err(|error| error.to_string()))
    }

    /// Bytes of the image that decoding touches, and of other memory for each position more before a token.
    async fn touched(&self) -> Result<(Count, Count), CountersError> {
        let mut seen = [(0, 0); 2];
        for (seen, depth) in seen.iter_mut().zip(DEPTHS) {
            self.ask(depth, 1, depth).await?;
            let forget = format!("/proc/{}/clear_refs", self.server.pid());
            // 1 forgets, but leaves the processor's translations, through which a page is touched unseen; 4, which forgets who
            // wrote, drops them.
            if let Err(error) = ["1", "4"].into_iter().try_for_each(|what| fs::write(&forget, what)) {
                let why = format!("{forget} cannot be written: {error}");
                return Ok((Err(why.clone()), Err(why)));
            }
            // What it begins with is known by now, so that all but a block of it is only read.
            self.ask(depth, 2, depth).await?;
            *seen = match self.mapped("Referenced:") {
                Ok(seen) => seen,
                Err(error) => return Ok((Err(error.to_string()), Err(error.to_string()))),
            };
        }
        let [(weights, few), (_, more)] = seen;
        let positions = (DEPTHS[1] - DEPTHS[0]) as f64;
        Ok((Ok(weights as f64), Ok((more as f64 - few as f64) / positions)))
    }

    /// What the kernel says of its mappings under a key, bytes: of the image, and of memory without a file. `Referenced:` was
    /// touched since that was last forgotten.
    fn mapped(&self, key: &str) -> io::Result<(u64, u64)> {
        let maps = fs::read_to_string(format!("/proc/{}/smaps", self.server.pid()))?;
        let image = self.image.canonicalize()?;
        let (mut of_image, mut of_memory, mut name) = (0, 0, String::new());
        for line in maps.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [found, kib, "kB"] if *found == key => {
                    let bytes = kib.parse::<u64>().unwrap_or(0) << 10;
                    match name.as_str() {
                        "" | "[heap]" => of_memory += bytes,
                        it if Path::new(it) == image => of_image += bytes,
                        _ => {}
                    }
                }
                [range, _, _, _, _, path @ ..] if range.contains('-') && !range.ends_with(':') => {
                    name = path.join(" ");
                }
                _ => {}
            }
        }
        Ok((of_image, of_memory))
    }
}

/// Allocations of the engine's thread for each token, by a library that is loaded before the program.
async fn allocations(contender: &Contender, vocab: usize, home: &Path) -> Result<Count, CountersError> {
    let library = match preload(home) {
        Ok(library) => library,
        Err(why) => return Ok(Err(why)),
    };
    let counts = home.join(format!("counts-{}", std::process::id()));
    let file = |source| CountersError::File { path: counts.clone(), source };
    fs::write(&counts, vec![0; PLACES * size_of::<u64>()]).map_err(file)?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let env = vec![("LD_PRELOAD".to_owned(), text(&library)), ("SAVILE_COUNTS".to_owned(), text(&counts))];
    let subject = Subject::start(contender, env, vocab).await?;
    let slope = subject
        .slope(ANSWERS, |it| {
            let bytes = fs::read(&counts)?;
            let counts = bytes.as_chunks::<8>().0;
            let own = u64::from_le_bytes(counts[it.engine()? as usize % PLACES]);
            // A library that was not loaded counts nothing, and would find every server without fault.
            match counts.iter().any(|it| *it != [0; 8]) {
                true => Ok(own),
                false => Err(io::Error::other("the counting library was not loaded")),
            }
        })
        .await?;
    subject.server.stop().await?;
    fs::remove_file(&counts).map_err(file)?;
    Ok(slope)
}

/// The counting library, made where it is missing or of other sources.
fn preload(home: &Path) -> Result<PathBuf, String> {
    let (source, library) = (home.join("preload.rs"), home.join("preload.so"));
    if library.is_file() && fs::read_to_string(&source).is_ok_and(|text| text == PRELOAD) {
        return Ok(library);
    }
    fs::create_dir_all(home).and_then(|()| fs::write(&source, PRELOAD)).map_err(|error| error.to_string())?;
    let made = Command::new("rustc")
        .args(["--edition", "2024", "--crate-type", "cdylib", "-C", "panic=abort", "-O", "-o"])
        .args([&library, &source])
        .output();
    match made {
        Ok(output) if output.status.success() => Ok(library),
        Ok(output) => Err(format!("the counting library: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(format!("rustc does not run: {error}")),
    }
}

/// Whether the system may back memory of this process, and of those that it starts from now on, with huge pages.
fn huge_pages(are_allowed: bool) {
    // SAFETY: the call takes numbers and changes how later memory is backed, nothing else.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, libc::c_ulong::from(!are_allowed), 0, 0, 0) };
}

/// What follows an answer, such as letting go of its blocks, is over by then.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Waits until the thread that is followed does nothing more.
async fn idle(tracer: &Tracer) {
    let mut before = tracer.count();
    loop {
        settle().await;
        let now = tracer.count();
        if now == before {
            return;
        }
        before = now;
    }
}

/// Times that the thread gave up its core.
fn switches(thread_id: i32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{thread_id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok()).ok_or_else(|| io::Error::other("no count of switches"))
}

#[cfg(test)]
mod tests;
