//! The ledger of a suite: one line for each cell that was run, and one for each format that has no own binary.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{LedgerError, Line, Proven, Provenance, append_line, read_lines, rfc3339, rounded};
use crate::bench::{Depth, Host, Noise};
use crate::prove::{Digests, Proof, Verdict};
use crate::reference::Format;
use crate::suite::{Ceilings, Entrant, Figure, Limit, Quantity, Raced, Reads, Row, Standing, judge};

/// The version of a line.
const VERSION: u32 = 1;

/// One cell of a suite. Only [`append_race`] makes one that was raced, from the proof behind it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuiteEntry {
    version: u32,
    id: u64,
    pub(crate) at: String,
    suite: String,
    pub(crate) model: String,
    pub(crate) precision: Format,
    pub(crate) row: Option<Row>,
    pub(crate) what: String,
    pub(crate) depth: Depth,
    pub(crate) commit: Option<String>,
    toolchain: Option<String>,
    pub(crate) digests: Option<Digests>,
    proof: Option<Proven>,
    pub(crate) host: Host,
    pub(crate) noise: Option<Noise>,
    seed: u64,
    rounds: usize,
    pub(crate) ceilings: Option<Ceilings>,
    pub(crate) reads: Option<Reads>,
    pub(crate) own: Option<Ours>,
    pub(crate) peers: Vec<Entrant>,
    pub(crate) best: Option<String>,
    pub(crate) limit: Option<Limit>,
    pub(crate) standing: Standing,
    pub(crate) misses: Vec<String>,
    pub(crate) void: Option<String>,
}

/// The own binary in a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ours {
    pub(crate) plan: BTreeMap<String, String>,
    pub(crate) measured: BTreeMap<Quantity, f64>,
    pub(crate) kl_mean: f64,
    pub(crate) same_top: f64,
}

/// What a cell is made of.
#[derive(Debug)]
pub struct SuiteRace<'a> {
    /// The suite.
    pub suite: &'a str,
    /// The model, by its short name.
    pub model: &'a str,
    /// The format of the weights.
    pub format: Format,
    /// Mechanism of each axis.
    pub plan: BTreeMap<String, String>,
    /// What was raced.
    pub raced: &'a Raced,
    /// The proof of the binary that was.
    pub proof: &'a Proof,
    /// What the machine reached.
    pub ceilings: &'a Ceilings,
    /// What own must read.
    pub reads: Reads,
    /// How much time was spent.
    pub depth: Depth,
    /// Seed of traffic, order and intervals.
    pub seed: u64,
}

impl Line for SuiteEntry {
    const VERSION: u32 = VERSION;

    fn version(&self) -> u32 {
        self.version
    }

    fn id(&self) -> u64 {
        self.id
    }
}

impl SuiteEntry {
    /// Its number in its ledger, from 1.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// What it misses, in words.
    #[must_use]
    pub fn misses(&self) -> &[String] {
        &self.misses
    }

    /// The model and the row, where it has one.
    #[must_use]
    pub fn cell(&self) -> (&str, Format, Option<Row>) {
        (&self.model, self.precision, self.row)
    }

    /// The plan's digest of the binary that was raced.
    #[must_use]
    pub fn plan_digest(&self) -> Option<&str> {
        self.digests.as_ref().map(|digests| digests.plan.as_str())
    }

    /// What own measured of this quantity, ms or bytes.
    #[must_use]
    pub fn measured(&self, quantity: Quantity) -> Option<f64> {
        self.own.as_ref()?.measured.get(&quantity).copied()
    }

    /// What the machine allowed.
    #[must_use]
    pub fn limit(&self) -> Option<&Limit> {
        self.limit.as_ref()
    }

    /// The best engine of the row, and own against it.
    pub(crate) fn against_best(&self) -> Option<&Entrant> {
        self.peers.iter().find(|peer| Some(&peer.name) == self.best.as_ref())
    }

    fn raced(id: u64, race: &SuiteRace<'_>, from: &Provenance) -> Result<Self, LedgerError> {
        if race.proof.verdict != Verdict::Pass {
            return Err(LedgerError::NotProven(race.proof.name.clone()));
        }
        let raced = race.raced;
        let best = raced.best.map(|idx| &raced.peers[idx]);
        let share = raced.limit.as_ref().map(|limit| limit.share);
        let cell = (race.model, race.format, raced.row);
        let ahead = best.map_or(&[][..], |best| best.figures.as_slice());
        let (standing, misses) = match &raced.void {
            Some(_) => (Standing::Void, vec![]),
            None => judge(cell, ahead, &raced.own, share),
        };
        let short = |figure: &Figure| Figure {
            ratio: figure.ratio.map(rounded),
            own: rounded(figure.own),
            peer: rounded(figure.peer),
            ..*figure
        };
        let peers = raced.peers.iter().map(|peer| Entrant {
            figures: peer.figures.iter().map(short).collect(),
            heat: peer.heat.map(rounded),
            ..peer.clone()
        });
        Ok(Self {
            version: VERSION,
            id,
            at: rfc3339(SystemTime::now()),
            suite: race.suite.to_owned(),
            model: race.model.to_owned(),
            precision: race.format,
            row: Some(raced.row),
            what: raced.what.clone(),
            depth: race.depth,
            commit: from.commit.clone(),
            toolchain: from.toolchain.clone(),
            digests: Some(race.proof.digests.clone()),
            proof: Some(Proven::of(race.proof)),
            host: raced.host.clone(),
            noise: Some(raced.noise.clone()),
            seed: race.seed,
            rounds: raced.rounds,
            ceilings: Some(race.ceilings.clone()),
            reads: Some(race.reads),
            own: Some(Ours {
                plan: race.plan.clone(),
                measured: raced.own.iter().map(|(quantity, value)| (*quantity, rounded(*value))).collect(),
                kl_mean: rounded(race.proof.measures.kl_mean),
                same_top: rounded(race.proof.measures.same_top),
            }),
            peers: peers.collect(),
            best: best.map(|best| best.name.clone()),
            limit: raced.limit.clone(),
            standing,
            misses,
            void: raced.void.clone(),
        })
    }
}

/// Appends a cell that was raced.
///
/// # Errors
/// When the proof did not pass, the ledger holds a line that is none, or it cannot be written.
pub fn append_race(path: &Path, race: &SuiteRace<'_>, from: &Provenance) -> Result<SuiteEntry, LedgerError> {
    append_line(path, |id, _| SuiteEntry::raced(id, race, from).map(Some))
        .map(|entry| entry.expect("a race always makes a line"))
}

/// Appends that a format has no own binary, and why, unless the last line of that format says so already.
///
/// # Errors
/// When the ledger holds a line that is none, or it cannot be written.
pub fn append_refusal(
    path: &Path,
    suite: &str,
    (model, format): (&str, Format),
    why: &str,
    from: &Provenance,
) -> Result<Option<SuiteEntry>, LedgerError> {
    append_line(path, |id, entries: &[SuiteEntry]| {
        let last = entries.iter().rev().find(|it| it.model == model && it.precision == format);
        if last.is_some_and(|it| it.row.is_none() && it.misses == [why.to_owned()]) {
            return Ok(None);
        }
        Ok(Some(SuiteEntry {
            version: VERSION,
            id,
            at: rfc3339(SystemTime::now()),
            suite: suite.to_owned(),
            model: model.to_owned(),
            precision: format,
            row: None,
            what: String::new(),
            depth: Depth::Full,
            commit: from.commit.clone(),
            toolchain: from.toolchain.clone(),
            digests: None,
            proof: None,
            host: Host::read(),
            noise: None,
            seed: 0,
            rounds: 0,
            ceilings: None,
            reads: None,
            own: None,
            peers: vec![],
            best: None,
            limit: None,
            standing: Standing::Refused,
            misses: vec![why.to_owned()],
            void: None,
        }))
    })
}

/// Every cell of the ledger of a suite, oldest first; none where there is no such file.
///
/// # Errors
/// When the file cannot be read, or a line of it is none; the line is named.
pub fn read_suite(path: &Path) -> Result<Vec<SuiteEntry>, LedgerError> {
    read_lines(path)
}
