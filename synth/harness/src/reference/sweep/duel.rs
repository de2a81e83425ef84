//! Two settings of one reference, loaded in turn.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Probe, Settings, Trial, Tried, flags};
use crate::client::Client;
use crate::load::{Outcome, Record, Request, Target, Wire, closed_loop};
use crate::metrics::{Quantity, distribution};
use crate::process::{Launch, Server, free_port};
use crate::random::Random;
use crate::stats::median;

/// Rounds of a duel that is not lost before; in each, both sides are loaded once, and who begins changes. Among equals one
/// challenger in sixteen would win them all, by one of two measures, if it were not for [`CLEAR`].
const ROUNDS: usize = 5;

/// The median of the rounds must be shorter by this share to count: less is not worth another setting.
const CLEAR: f64 = 0.03;

/// A challenger so much slower after one round loses without another.
const HOPELESS: f64 = 1.25;

/// Tokens of the answers that warm a server up.
const WARM_UP: usize = 2;

/// A load that takes longer is no candidate's.
const DEADLINE: Duration = Duration::from_secs(120);

/// How a reference is started with some settings on an address.
type Start<'a> = &'a dyn Fn(&Settings, SocketAddr) -> Launch;

/// Where settings are tried: the best so far, running, and the record of all.
pub(super) struct Arena<'a> {
    start: Start<'a>,
    wire: Wire,
    load: Load,
    champion: Side,
    trials: Vec<Trial>,
}

/// What each side is asked. Prompts differ, so that none is answered from another's cache.
struct Load {
    probe: Probe,
    n_vocab: usize,
    random: Random,
}

/// One setting of the reference.
struct Side {
    settings: Settings,
    flags: Vec<String>,
    state: State,
}

enum State {
    Up(Box<Server>, Target),
    Down,
    Failed(String),
}

/// Medians over the requests of one load.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pass {
    tpot_ms: f64,
    ttft_ms: f64,
}

impl<'a> Arena<'a> {
    /// Starts the first settings and loads them once.
    pub(super) async fn open(
        start: Start<'a>,
        wire: Wire,
        probe: Probe,
        n_vocab: usize,
        first: &Settings,
    ) -> Self {
        let champion = Side { settings: first.clone(), flags: Vec::new(), state: State::Down };
        let load = Load { probe, n_vocab, random: Random::new(1) };
        let mut arena = Self { start, wire, load, champion, trials: Vec::new() };
        arena.champion.up(arena.start, &arena.wire, &mut arena.load).await;
        let alone = arena.champion.pass(&mut arena.load).await;
        arena.trials.push(arena.champion.trial(&[], alone));
        arena
    }

    /// Tries other settings against the best so far; whether they take its place.
    pub(super) async fn challenge(&mut self, settings: &Settings) -> bool {
        // Two servers need two servers' memory. Where there is only one's, they take turns, and start each time.
        let is_roomy = self.champion.has_room_beside_it();
        let mut challenger = Side { settings: settings.clone(), flags: Vec::new(), state: State::Down };
        let mut rounds = Vec::new();
        for round in 0..ROUNDS {
            let mut passes = [None; 2];
            for side in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
                let contestant = if side == 0 { &mut self.champion } else { &mut challenger };
                contestant.up(self.start, &self.wire, &mut self.load).await;
                passes[side] = contestant.pass(&mut self.load).await;
                if !is_roomy {
                    contestant.down().await;
                }
            }
            let [Some(champion), Some(new)] = passes else { break };
            rounds.push((champion, new));
            if new.tpot_ms > champion.tpot_ms * HOPELESS || !can_win(&rounds) {
                break;
            }
        }
        let wins = match (&self.champion.state, &challenger.state) {
            (_, State::Failed(_)) => false,
            (State::Failed(_), _) => true,
            _ => is_better(&rounds),
        };
        self.trials.push(challenger.trial(&rounds, None));
        if wins {
            std::mem::swap(&mut self.champion, &mut challenger);
        }
        // Whoever lost.
        challenger.down().await;
        wins
    }

    /// Stops what runs. The trials, and why the best settings failed, if they did.
    pub(super) async fn close(mut self) -> (Vec<Trial>, Option<String>) {
        let failure = match &self.champion.state {
            State::Failed(reason) => Some(reason.clone()),
            State::Up(..) | State::Down => None,
        };
        self.champion.down().await;
        (self.trials, failure)
    }
}

impl Side {
    /// Starts it and warms it up, unless it runs or has failed.
    async fn up(&mut self, start: Start<'_>, wire: &Wire, load: &mut Load) {
        if !matches!(self.state, State::Down) {
            return;
        }
        let started = async {
            let listen = free_port().map_err(|error| error.to_string())?;
            let launch = start(&self.settings, listen);
            self.flags = flags(&launch);
            let server = Server::start(launch).await.map_err(|error| error.to_string())?;
            let target = Target::new(Client::new(listen), wire.clone());
            // As wide as the load, since some runtimes prepare for each width when they first meet it.
            let requests = load.requests(WARM_UP.min(load.probe.output));
            let records = closed_loop(&target, &requests, load.probe.concurrency, DEADLINE).await;
            failure_of(&records).map_or(Ok((server, target)), Err)
        };
        self.state = match started.await {
            Ok((server, target)) => State::Up(Box::new(server), target),
            Err(reason) => State::Failed(reason),
        };
    }

    /// Loads it once; nothing where it has failed.
    async fn pass(&mut self, load: &mut Load) -> Option<Pass> {
        let State::Up(_, target) = &self.state else { return None };
        let requests = load.requests(load.probe.output);
        let records = closed_loop(target, &requests, load.probe.concurrency, DEADLINE).await;
        let typical = |quantity| median(&distribution(&records, quantity));
        let failure = failure_of(&records);
        match (failure, typical(Quantity::Ttft)) {
            // Answers of one token have no time per token after the first.
            (None, Some(ttft_ms)) => Some(Pass { tpot_ms: typical(Quantity::Tpot).unwrap_or(0.0), ttft_ms }),
            (failure, _) => {
                self.state = State::Failed(failure.unwrap_or_else(|| "no token came".to_owned()));
                None
            }
        }
    }

    async fn down(&mut self) {
        if matches!(self.state, State::Up(..))
            && let State::Up(server, _) = std::mem::replace(&mut self.state, State::Down)
            && let Err(error) = server.stop().await
        {
            self.state = State::Failed(error.to_string());
        }
    }

    /// What came of it: in rounds against another, or in one load alone.
    fn trial(&self, rounds: &[(Pass, Pass)], alone: Option<Pass>) -> Trial {
        let typical = |value: fn(&Pass) -> f64| {
            let values: Vec<_> = rounds.iter().map(|(_, own)| own).chain(&alone).map(value).collect();
            median(&values).unwrap_or(0.0)
        };
        let outcome = match &self.state {
            State::Failed(reason) => Tried::Failed(in_short(reason)),
            State::Up(..) | State::Down => Tried::Measured {
                tpot_ms: typical(|pass| pass.tpot_ms),
                ttft_ms: typical(|pass| pass.ttft_ms),
                tpot_ratios: ratios(rounds, |pass| pass.tpot_ms),
                ttft_ratios: ratios(rounds, |pass| pass.ttft_ms),
            },
        };
        Trial { settings: self.settings.clone(), flags: self.flags.clone(), outcome }
    }

    /// Whether the machine has memory for a second server like this one, with a fourth to spare.
    fn has_room_beside_it(&self) -> bool {
        let State::Up(server, _) = &self.state else { return true };
        let available = crate::process::available_memory_bytes();
        match (server.peak_rss_bytes(), available) {
            (Ok(held), Some(available)) => held + held / 4 < available,
            _ => false,
        }
    }
}

impl Load {
    fn requests(&mut self, max_tokens: usize) -> Vec<Request> {
        (0..self.probe.concurrency)
            .map(|_| Request {
                prompt: (0..self.probe.prompt).map(|_| self.random.below(self.n_vocab) as u32).collect(),
                max_tokens,
            })
            .collect()
    }
}

fn failure_of(records: &[Record]) -> Option<String> {
    records.iter().find_map(|record| match &record.outcome {
        Outcome::Complete(_) => None,
        other => Some(format!("{other:?}")),
    })
}

/// The challenger's ÷ the champion's, round by round.
fn ratios(rounds: &[(Pass, Pass)], value: fn(&Pass) -> f64) -> Vec<f64> {
    rounds
        .iter()
        .map(|(champion, new)| value(new) / value(champion))
        .filter(|ratio| ratio.is_finite())
        .collect()
}

/// Whether every round so far was shorter by one of the measures.
fn can_win(rounds: &[(Pass, Pass)]) -> bool {
    let measures: [fn(&Pass) -> f64; 2] = [|pass| pass.tpot_ms, |pass| pass.ttft_ms];
    measures.into_iter().any(|measure| ratios(rounds, measure).iter().all(|ratio| *ratio < 1.0))
}

/// Clearly shorter per token, or about as short per token and clearly shorter to the first.
fn is_better(rounds: &[(Pass, Pass)]) -> bool {
    let (tpot, ttft) = (ratios(rounds, |pass| pass.tpot_ms), ratios(rounds, |pass| pass.ttft_ms));
    let typical = |ratios: &[f64]| median(ratios).unwrap_or(1.0);
    let is_clear = |ratios: &[f64]| {
        ratios.len() == ROUNDS && typical(ratios) < 1.0 - CLEAR && ratios.iter().all(|ratio| *ratio < 1.0)
    };
    is_clear(&tpot) || (typical(&tpot) < 1.0 + CLEAR && is_clear(&ttft))
}

/// The first line of a reason and the last, for a record that other machines read: between them are a log's, with paths of
/// whoever built the runtime.
fn in_short(reason: &str) -> String {
    let mut lines = reason.lines();
    let first = lines.next().unwrap_or_default();
    lines.next_back().map_or_else(|| first.to_owned(), |last| format!("{first} {last}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds in which the champion takes 10 and 100 ms, and the challenger so much.
    fn rounds(new: [(f64, f64); ROUNDS]) -> Vec<(Pass, Pass)> {
        let champion = Pass { tpot_ms: 10.0, ttft_ms: 100.0 };
        new.map(|(tpot_ms, ttft_ms)| (champion, Pass { tpot_ms, ttft_ms })).into()
    }

    #[test]
    fn moves_are_kept_for_gains_that_are_clear_in_every_round() {
        assert!(is_better(&rounds([(9.0, 500.0); 5])), "time per token comes first");
        assert!(!is_better(&rounds([(9.9, 100.0); 5])), "one per cent is not worth it");
        let all_but_one = [(8.0, 100.0), (9.0, 100.0), (8.0, 100.0), (9.0, 100.0), (10.1, 100.0)];
        assert!(!is_better(&rounds(all_but_one)), "four rounds of five are luck");
        assert!(is_better(&rounds([(10.1, 90.0); 5])), "time to first token decides among equals");
        assert!(!is_better(&rounds([(11.0, 10.0); 5])), "and not against a slower token");
        assert!(!is_better(&rounds([(9.0, 90.0); 5])[..4]), "a duel that was broken off is not won");
        assert!(!is_better(&rounds([(10.0, 100.0); 5])));
    }

    #[test]
    fn answers_of_one_token_are_judged_by_their_first() {
        assert!(is_better(&rounds([(f64::NAN, 90.0); 5])));
    }

    #[test]
    fn a_duel_ends_when_neither_measure_can_win_it() {
        assert!(can_win(&rounds([(11.0, 90.0); 5])[..1]) && can_win(&rounds([(9.0, 110.0); 5])[..2]));
        let each_lost_once = rounds([(11.0, 90.0), (9.0, 110.0), (9.0, 90.0), (9.0, 90.0), (9.0, 90.0)]);
        assert!(can_win(&each_lost_once[..1]) && !can_win(&each_lost_once[..2]));
    }

    #[tokio::test]
    async fn settings_that_do_not_start_lose_and_the_first_that_do_not_are_told() {
        let start = |_: &Settings, listen| Launch {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), "echo no such flag; exit 2".into()],
            env: Vec::new(),
            listen,
            ready_path: "/health",
            timeout: Duration::from_secs(5),
            log: std::env::temp_dir().join(format!("savile-{}-duel.log", std::process::id())),
        };
        let wire = Wire::OpenAi { model: "m".into() };
        let probe = Probe { prompt: 1, output: 1, concurrency: 1 };
        let first = Settings::default();
        let mut arena = Arena::open(&start, wire, probe, 10, &first).await;
        assert!(!arena.challenge(&first.with("a", "1")).await);
        let (trials, failure) = arena.close().await;
        assert!(failure.is_some_and(|reason| reason.contains("no such flag")));
        assert_eq!(trials.len(), 2);
        assert!(trials.iter().all(|trial| matches!(trial.outcome, Tried::Failed(_))));
    }

    #[test]
    fn of_a_log_the_last_line_is_kept() {
        assert_eq!(
            in_short("it ended; its log ends with:\nat /there\nno such type"),
            "it ended; its log ends with: no such type"
        );
        assert_eq!(in_short("it ended"), "it ended");
    }
}
