//! The ledger: one line of JSON for each race, appended, never changed.
//!
//! Ratios from different machines can stand in one table; milliseconds only beside those of the same machine. A line
//! names everything that made it: spec, plan, weights, binary, proof, references with their flags, machine, noise.

mod results;
mod suite;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use synth::workload::Metric;

use crate::bench::{Comparison, Depth, Host, Measured, Noise, RooflineFraction, Side, Versus};
use crate::prove::{Digests, Proof, Verdict as ProofVerdict};
use crate::stats::Verdict;

pub use results::results;
pub use suite::{SuiteEntry, SuiteRace, append_race, append_refusal, read_suite};

/// The version of a line. A reader refuses any other.
pub const VERSION: u32 = 1;

/// Significant digits of a number in the ledger; what is beyond is noise.
const DIGITS: i32 = 5;

/// One race. Its fields are private: only [`append`] makes one, from a comparison and the proof behind it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    version: u32,
    id: u64,
    at: String,
    workload: String,
    commit: Option<String>,
    toolchain: Option<String>,
    digests: Digests,
    proof: Proven,
    host: Host,
    noise: Noise,
    seed: u64,
    pairs: usize,
    depth: Depth,
    own: Server,
    references: Vec<Race>,
    headline: Option<Headline>,
    roofline: Option<RooflineFraction>,
}

/// How much was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Proven {
    surfaces: usize,
    cases: usize,
    oracle_tokens: usize,
}

/// A server, with medians over its starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Server {
    name: String,
    version: String,
    flags: Vec<String>,
    ready_ms: Option<f64>,
    first_token_ms: Option<f64>,
    peak_rss_bytes: u64,
}

/// A race against one reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Race {
    reference: Server,
    cells: BTreeMap<String, Cell>,
}

/// One kind of load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cell {
    what: String,
    void: Option<String>,
    metrics: BTreeMap<Metric, Figure>,
    ms_per_token: Option<Figure>,
    own_goodput_rps: f64,
    reference_goodput_rps: f64,
}

/// Own ÷ reference and its interval, with the milliseconds behind it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Figure {
    ratio: [f64; 3],
    own_ms: f64,
    reference_ms: f64,
    verdict: Verdict,
}

/// The result that a sentence can be made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Headline {
    reference: String,
    cell: String,
    metric: Metric,
    ratio: [f64; 3],
    verdict: Verdict,
}

/// Where the code that measured came from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance {
    /// The commit, marked `-dirty` where files differ from it.
    pub commit: Option<String>,
    /// The compiler's name for itself.
    pub toolchain: Option<String>,
}

/// Why a ledger cannot be read or added to.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields hold")]
pub enum LedgerError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}:{line}: {reason}; a ledger is only ever appended to, by a bench", path.display())]
    Line { path: PathBuf, line: usize, reason: String },
    #[error("the comparison is of {compared} and the proof is of {proven}: nothing is recorded")]
    OtherProof { compared: String, proven: String },
    #[error("{0} has not passed its proof: nothing is recorded")]
    NotProven(String),
}

impl Provenance {
    /// The commit of the repository at `folder` and the `rustc` in use, as far as they can be asked.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        let ask = |program: &str, args: &[&str]| -> Option<String> {
            let output = Command::new(program).args(args).current_dir(folder).output().ok()?;
            let answer = String::from_utf8(output.stdout).ok()?.trim().to_owned();
            (output.status.success() && !answer.is_empty()).then_some(answer)
        };
        // Proving and racing write proofs and ledgers, which are no code.
        let ours = [":!generated/*/proof.json", ":!generated/*/proof.md", ":!workloads/ledger"];
        let status = ["status", "--porcelain", "--untracked-files=no", "--", "."];
        let is_dirty = ask("git", &[&status[..], &ours[..]].concat()).is_some();
        let dirty = if is_dirty { "-dirty" } else { "" };
        let commit = ask("git", &["rev-parse", "HEAD"]).map(|commit| format!("{commit}{dirty}"));
        Self { commit, toolchain: ask("rustc", &["--version"]) }
    }
}

impl Entry {
    /// Its number in its ledger, from 1.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// When it was made: UTC, RFC 3339, whole seconds.
    #[must_use]
    pub fn at(&self) -> &str {
        &self.at
    }

    /// What the headline amounts to; `None` where every cell that could give one is void.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        self.headline.as_ref().map(|headline| headline.verdict)
    }

    /// The headline's own ÷ reference with its interval, and the reference's name.
    #[must_use]
    pub fn ratio(&self) -> Option<(&str, [f64; 3])> {
        self.headline.as_ref().map(|headline| (headline.reference.as_str(), headline.ratio))
    }

    /// The own server's median time per output token with one sequence in flight, milliseconds: what the planner
    /// predicts.
    #[must_use]
    pub fn decode_ms(&self) -> Option<f64> {
        let decode = self.references.first()?.cells.get("decode_c1")?;
        Some(decode.metrics.get(&Metric::TpotP50)?.own_ms)
    }

    fn new(
        id: u64,
        at: SystemTime,
        comparison: &Comparison,
        proof: &Proof,
        from: &Provenance,
    ) -> Result<Self, LedgerError> {
        if comparison.proven != proof.digests {
            let (compared, proven) = (comparison.proven.binary.clone(), proof.digests.binary.clone());
            return Err(LedgerError::OtherProof { compared, proven });
        }
        if proof.verdict != ProofVerdict::Pass {
            return Err(LedgerError::NotProven(proof.name.clone()));
        }
        Ok(Self {
            version: VERSION,
            id,
            at: rfc3339(at),
            workload: comparison.workload.clone(),
            commit: from.commit.clone(),
            toolchain: from.toolchain.clone(),
            digests: proof.digests.clone(),
            proof: Proven::of(proof),
            host: comparison.host.clone(),
            noise: comparison.noise.clone(),
            seed: comparison.seed,
            pairs: comparison.budget.pairs,
            depth: comparison.budget.depth,
            own: Server::of(&comparison.own),
            references: comparison.references.iter().map(Race::of).collect(),
            headline: comparison.headline().map(|headline| Headline {
                reference: headline.reference.name.clone(),
                cell: headline.cell.name.clone(),
                metric: headline.metric,
                ratio: headline.measured.ratio.interval().map(rounded),
                verdict: headline.measured.ratio.verdict,
            }),
            roofline: comparison.roofline,
        })
    }
}

impl Proven {
    fn of(proof: &Proof) -> Self {
        Self { surfaces: proof.surfaces.len(), cases: proof.n_cases, oracle_tokens: proof.n_oracle_tokens }
    }
}

impl Server {
    fn of(side: &Side) -> Self {
        let typical = |ms: &[f64]| crate::stats::median(ms).map(rounded);
        Self {
            name: side.name.clone(),
            version: side.version.clone(),
            flags: side.flags.clone(),
            ready_ms: typical(&side.ready_ms),
            first_token_ms: typical(&side.first_token_ms),
            peak_rss_bytes: side.peak_rss_bytes,
        }
    }
}

impl Race {
    fn of(versus: &Versus) -> Self {
        let cells = versus.cells.iter().map(|cell| {
            let metrics = cell.metrics.iter().map(|(metric, measured)| (*metric, Figure::of(measured)));
            let figures = Cell {
                what: cell.what.clone(),
                void: cell.void.clone(),
                metrics: metrics.collect(),
                ms_per_token: cell.ms_per_token.as_ref().map(Figure::of),
                own_goodput_rps: rounded(cell.own.goodput_rps),
                reference_goodput_rps: rounded(cell.reference.goodput_rps),
            };
            (cell.name.clone(), figures)
        });
        Self { reference: Server::of(&versus.reference), cells: cells.collect() }
    }
}

impl Figure {
    fn of(measured: &Measured) -> Self {
        Self {
            ratio: measured.ratio.interval().map(rounded),
            own_ms: rounded(measured.own_ms),
            reference_ms: rounded(measured.reference_ms),
            verdict: measured.ratio.verdict,
        }
    }
}

/// Appends the race to the ledger at `path`, which is created where it is missing, under the next number.
///
/// # Errors
/// When the proof is not of what was raced or did not pass, the ledger holds a line that is none, or it cannot be
/// written. Nothing is written then.
pub fn append(
    path: &Path,
    comparison: &Comparison,
    proof: &Proof,
    from: &Provenance,
) -> Result<Entry, LedgerError> {
    append_line(path, |id, _| Entry::new(id, SystemTime::now(), comparison, proof, from).map(Some))
        .map(|entry| entry.expect("a race always makes a line"))
}

/// Every entry of the ledger at `path`, oldest first; none where there is no such file.
///
/// # Errors
/// When the file cannot be read, or a line of it is no entry of this version; the line is named.
pub fn read(path: &Path) -> Result<Vec<Entry>, LedgerError> {
    read_lines(path)
}

/// A line of a ledger: a race of a workload, or a cell of a suite.
trait Line: Serialize + DeserializeOwned {
    /// The version that is written and read.
    const VERSION: u32;
    fn version(&self) -> u32;
    fn id(&self) -> u64;
}

impl Line for Entry {
    const VERSION: u32 = VERSION;

    fn version(&self) -> u32 {
        self.version
    }

    fn id(&self) -> u64 {
        self.id
    }
}

/// Appends what `make` makes under the next number, after those that are there; nothing where it makes nothing.
fn append_line<L: Line>(
    path: &Path,
    make: impl FnOnce(u64, &[L]) -> Result<Option<L>, LedgerError>,
) -> Result<Option<L>, LedgerError> {
    let fail = |source| LedgerError::File { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(fail)?;
    }
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(fail)?;
    // Held until the file is closed: two benches at once must not take the same number.
    file.lock().map_err(fail)?;
    let text = text(&mut file).map_err(fail)?;
    let entries = parse(path, &text)?;
    let Some(entry) = make(entries.last().map_or(0, Line::id) + 1, &entries)? else { return Ok(None) };
    let json = serde_json::to_string(&entry).map_err(|error| fail(error.into()))?;
    let cut_off = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    file.write_all(format!("{cut_off}{json}\n").as_bytes()).map_err(fail)?;
    Ok(Some(entry))
}

fn read_lines<L: Line>(path: &Path) -> Result<Vec<L>, LedgerError> {
    let fail = |source| LedgerError::File { path: path.to_owned(), source };
    match File::open(path) {
        Ok(mut file) => parse(path, &text(&mut file).map_err(fail)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        Err(error) => Err(fail(error)),
    }
}

fn text(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

fn parse<L: Line>(path: &Path, text: &str) -> Result<Vec<L>, LedgerError> {
    let mut entries: Vec<L> = Vec::new();
    for (idx, line) in text.lines().enumerate() {
        let fail = |reason: String| LedgerError::Line { path: path.to_owned(), line: idx + 1, reason };
        let entry: L = serde_json::from_str(line).map_err(|error| fail(error.to_string()))?;
        if entry.version() != L::VERSION {
            return Err(fail(format!("version {} where {} is known", entry.version(), L::VERSION)));
        }
        let expected = entries.last().map_or(1, |last| last.id() + 1);
        if entry.id() != expected {
            return Err(fail(format!("id {} where {expected} follows", entry.id())));
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// The number with [`DIGITS`] significant digits.
fn rounded(x: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let places = DIGITS - 1 - x.abs().log10().floor() as i32;
    // Through its decimal form, so that the ledger shows no digits beyond.
    format!("{x:.*}", places.clamp(0, 17) as usize).parse().unwrap_or(x)
}

/// UTC in whole seconds, as `2026-11-23T15:04:05Z`.
fn rfc3339(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar. Years are counted from March,
/// so that the leap day is the last of its year, in eras of 400 years.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (400 * era + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::tests::{comparison, proof};

    /// A path of its own for each test, with nothing there.
    fn fresh(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("savile-{}-{name}.jsonl", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    fn add(path: &Path) -> Result<Entry, LedgerError> {
        append(path, &comparison(), &proof("aa", ProofVerdict::Pass), &Provenance::default())
    }

    #[test]
    fn a_commit_is_dirty_when_code_differs_and_not_when_a_proof_does() {
        let folder = std::env::temp_dir().join(format!("savile-{}-provenance", std::process::id()));
        std::fs::create_dir_all(folder.join("generated/x")).expect("a temporary folder");
        let git = |args: &[&str]| {
            let identity = ["-c", "user.name=x", "-c", "user.email=x@x"];
            let output = Command::new("git").args(identity).args(args).current_dir(&folder).output();
            assert!(output.is_ok_and(|it| it.status.success()), "git {args:?}");
        };
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("written");
        write("code.rs", "1");
        write("generated/x/proof.md", "1");
        git(&["init", "--quiet"]);
        git(&["add", "."]);
        git(&["commit", "--quiet", "--message=x"]);
        let commit = || Provenance::of(&folder).commit.expect("there is one");
        let clean = commit();
        assert_eq!(clean.len(), 40);
        write("generated/x/proof.md", "2");
        assert_eq!(commit(), clean);
        write("code.rs", "2");
        assert_eq!(commit(), format!("{clean}-dirty"));
        std::fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn what_is_appended_is_what_is_read() {
        let path = fresh("round");
        assert_eq!(read(&path).expect("an empty ledger"), []);
        let written = [add(&path).expect("first"), add(&path).expect("second")];
        let back = read(&path).expect("a ledger");
        assert_eq!(back.iter().map(Entry::id).collect::<Vec<_>>(), [1, 2]);
        for (back, written) in back.iter().zip(&written) {
            assert_eq!(back.headline, written.headline);
            assert_eq!(back.references, written.references);
            assert_eq!((back.at(), back.verdict()), (written.at(), Some(Verdict::Faster)));
        }
        assert_eq!(back[0].ratio().expect("a headline").0, "llama.cpp");
    }

    #[test]
    fn appending_leaves_what_is_there_alone() {
        let path = fresh("append");
        add(&path).expect("first");
        let before = std::fs::read_to_string(&path).expect("text");
        add(&path).expect("second");
        let after = std::fs::read_to_string(&path).expect("text");
        assert!(after.starts_with(&before) && after.lines().count() == 2);
    }

    #[test]
    fn a_corrupted_line_is_named_and_nothing_is_added_after_it() {
        let path = fresh("corrupt");
        add(&path).expect("first");
        let good = std::fs::read_to_string(&path).expect("text");
        for (bad, reason) in [
            ("{\"version\":1".to_owned(), "EOF"),
            (String::new() + "\n", "EOF"),
            (good.replace("\"version\":1,", "\"version\":2,"), "version 2"),
            (good.replace("\"seed\"", "\"winner\":1,\"seed\""), "unknown field `winner`"),
            (good.clone(), "id 1 where 2 follows"),
        ] {
            let text = good.clone() + &bad;
            std::fs::write(&path, &text).expect("a file");
            for error in [read(&path).expect_err("unreadable"), add(&path).expect_err("unreadable")] {
                let message = error.to_string();
                assert!(message.contains("jsonl:2: ") && message.contains(reason), "{message}");
            }
            assert_eq!(std::fs::read_to_string(&path).expect("text"), text, "nothing was written");
        }
    }

    #[test]
    fn only_proven_races_are_recorded() {
        let path = fresh("proven");
        let record =
            |proof: &Proof| append(&path, &comparison(), proof, &Provenance::default()).expect_err("refused");
        assert!(matches!(record(&proof("bb", ProofVerdict::Pass)), LedgerError::OtherProof { .. }));
        assert!(matches!(record(&proof("aa", ProofVerdict::Fail)), LedgerError::NotProven(_)));
        assert_eq!(read(&path).expect("an empty ledger"), []);
    }

    #[test]
    fn benches_at_once_take_different_numbers() {
        let path = fresh("at-once");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| add(&path).expect("an entry"));
            }
        });
        assert_eq!(read(&path).expect("a ledger").len(), 4);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_795_446_245, "2026-11-23T15:04:05Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn rounding_keeps_five_digits() {
        assert_eq!(
            [1.234_567_8, 0.000_123_456_7, 123_456.7, 0.0].map(rounded),
            [1.2346, 0.000_123_46, 123_457.0, 0.0]
        );
    }
}
