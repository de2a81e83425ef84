//! What the handlers share: the model's facts, the way to the engine, and whether requests are served now.

use std::{
    fs,
    hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;

use crate::{chat::ChatTemplate, metrics::Metrics, request::Outbox, tokenizer::Tokenizer};

/// Numbers the binary was built with.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Tokens of prompt and answer together.
    pub context: usize,
    /// Tokens of an answer.
    pub max_output: usize,
    /// Choices per prompt: the bound of `n`.
    pub max_choices: usize,
    /// Size of the vocabulary; token ids are below it.
    pub vocab: usize,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Connections served at once; more wait to be accepted.
    pub n_connections: usize,
    /// For a connection to send a request's head, and to stay open between two requests.
    pub header_time: Duration,
    /// For a request's body to arrive.
    pub body_time: Duration,
    /// For running requests to finish once the server was told to stop.
    pub drain_time: Duration,
    /// How long the engine may have work and make no step before `/health` says so.
    pub stall_time: Duration,
}

/// How a request is sampled that does not say otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus; 1 keeps all.
    pub top_p: f32,
    /// Keep this many; `None` keeps all.
    pub top_k: Option<usize>,
    /// Keep tokens at least this share as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens that were there; 1 does nothing.
    pub repetition_penalty: f32,
}

/// What a binary was built from; answered by `/version`.
#[derive(Debug, Clone, Copy)]
pub struct Build {
    /// The workload's name, which is the binary's.
    pub name: &'static str,
    /// The emitted crate's version.
    pub version: &'static str,
    /// SHA-256 of the workload, in hexadecimal.
    pub spec_digest: &'static str,
    /// SHA-256 of the plan.
    pub plan_digest: &'static str,
    /// SHA-256 of the weights the plan was made for.
    pub weights_digest: &'static str,
}

/// All that a server is made of, filled in by the emitted crate.
pub struct Service {
    /// The model's name in requests and answers.
    pub model: &'static str,
    /// What the binary was built from.
    pub build: Build,
    /// Numbers it was built with.
    pub limits: Limits,
    /// How a request is sampled that does not say otherwise.
    pub defaults: Defaults,
    /// The model's end-of-sequence tokens.
    pub eos: &'static [u32],
    /// The model's tokenizer.
    pub tokenizer: Tokenizer,
    /// The model's chat template, if it has one.
    pub template: Option<ChatTemplate>,
    /// The way to the engine.
    pub outbox: Outbox,
    /// What the server counts.
    pub metrics: Arc<Metrics>,
    /// Who may call.
    pub keys: Keys,
}

/// Whether requests are served now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not yet.
    Loading,
    /// Yes.
    Ready,
    /// No new ones; running ones finish.
    Draining,
    /// The time to finish is over.
    Ended,
}

/// The shared state of all handlers. Cloning is cheap.
#[derive(Clone)]
pub struct State {
    pub(crate) service: Arc<Service>,
    pub(crate) started: u64,
    pub(crate) fingerprint: Arc<str>,
    phase: watch::Sender<Phase>,
    random: RandomState,
    n_random: Arc<AtomicU64>,
}

impl State {
    /// A server that is still loading: it answers 503 until [`State::set_ready`].
    pub fn new(service: Service) -> State {
        let digest: String = service.build.plan_digest.chars().take(12).collect();
        State {
            service: Arc::new(service),
            started: unix_seconds(),
            fingerprint: format!("savile-{digest}").into(),
            phase: watch::Sender::new(Phase::Loading),
            random: RandomState::new(),
            n_random: Arc::default(),
        }
    }

    /// From now on requests are served.
    pub fn set_ready(&self) {
        self.advance(Phase::Ready);
    }

    /// From now on new requests are refused and running ones finish.
    pub fn drain(&self) {
        self.advance(Phase::Draining);
    }

    /// From now on running requests are given up.
    pub(crate) fn end(&self) {
        self.advance(Phase::Ended);
    }

    /// Whether requests are served now.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Waits until the phase is `phase` or a later one.
    pub(crate) async fn reached(&self, phase: Phase) {
        // The sender lives in `self`, so the channel cannot close while this waits.
        let _ = self.phase.subscribe().wait_for(|&now| now as u8 >= phase as u8).await;
    }

    fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let later = phase as u8 > *now as u8;
            if later {
                *now = phase;
            }
            later
        });
    }

    /// A number nobody can guess and that does not come twice: for ids, and for seeds that were not given.
    pub(crate) fn random(&self) -> u64 {
        self.random.hash_one((self.n_random.fetch_add(1, Ordering::Relaxed), unix_seconds()))
    }
}

/// Seconds since 1970, 0 before.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// API keys. Without any, everybody may call.
#[derive(Default)]
pub struct Keys(Vec<Box<[u8]>>);

/// Why a file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file could not be read.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A server that was told to check keys must not serve everybody because the file is empty.
    #[error("{}: holds no key; write one per line", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
}

impl Keys {
    /// Reads keys, one per line; empty lines and lines that start with `#` are none.
    pub fn read(path: impl AsRef<Path>) -> Result<Keys, KeysError> {
        let file = path.as_ref().to_owned();
        let text =
            fs::read_to_string(&file).map_err(|source| KeysError::Io { file: file.clone(), source })?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys: Vec<Box<[u8]>> = lines.map(|line| line.as_bytes().into()).collect();
        if keys.is_empty() { Err(KeysError::Empty { file }) } else { Ok(Keys(keys)) }
    }

    /// Who calls with this `Authorization` header, or `None` for a stranger. Takes the same time for every
    /// wrong key of a length, and looks at all keys always.
    pub(crate) fn caller(&self, authorization: Option<&[u8]>) -> Option<Caller> {
        if self.0.is_empty() {
            return Some(Caller { key: 0 });
        }
        let given = authorization?;
        let (scheme, given) = given.split_at_checked(7)?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return None;
        }
        let mut found = None;
        for (key, known) in (1..).zip(&self.0) {
            if equal(known, given) {
                found = Some(Caller { key });
            }
        }
        found
    }
}

/// Whether two byte strings are equal, in a time that depends on their lengths only.
fn equal(left: &[u8], right: &[u8]) -> bool {
    let differing = left.iter().zip(right).fold(0, |bits, (left, right)| bits | (left ^ right));
    left.len() == right.len() && std::hint::black_box(differing) == 0
}

/// Who sent a request, as far as keys tell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Caller {
    key: u64,
}

impl Caller {
    /// Requests share cached prefixes only within one key and one `cache_salt`, so that nobody can learn
    /// from latencies what others asked.
    pub(crate) fn cache_salt(self, asked: Option<&str>) -> u64 {
        match (self.key, asked) {
            (0, None) => 0,
            both => {
                let mut hasher = DefaultHasher::new();
                both.hash(&mut hasher);
                hasher.finish()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Result<Keys, KeysError> {
        let path = std::env::temp_dir().join(format!("rt-keys-{}-{}", std::process::id(), text.len()));
        fs::write(&path, text).expect("temporary file");
        let keys = Keys::read(&path);
        let _ = fs::remove_file(path);
        keys
    }

    #[test]
    fn keys_are_told_apart() {
        let keys = keys("# team\nalpha\n\n  beta \n").expect("two keys");
        let caller = |header: &str| keys.caller(Some(header.as_bytes()));
        assert_eq!(caller("Bearer alpha"), Some(Caller { key: 1 }));
        assert_eq!(caller("bearer beta"), Some(Caller { key: 2 }));
        for wrong in ["Bearer alph", "Bearer alphaa", "Bearer ", "alpha", "Basic alpha", "Bearer # team", ""]
        {
            assert_eq!(caller(wrong), None, "{wrong}");
        }
        assert_eq!(keys.caller(None), None);
    }

    #[test]
    fn a_file_without_keys_does_not_open_the_server() {
        assert!(matches!(keys("\n# none\n"), Err(KeysError::Empty { .. })));
        assert!(Keys::default().caller(None).is_some());
    }

    #[test]
    fn salts_part_keys_and_asked_salts() {
        let salts = [(0, None), (1, None), (2, None), (0, Some("a")), (1, Some("a")), (1, Some("b"))]
            .map(|(key, asked)| Caller { key }.cache_salt(asked));
        let distinct: std::collections::BTreeSet<u64> = salts.into();
        assert_eq!(distinct.len(), salts.len());
        assert_eq!(salts[0], 0);
    }
}
