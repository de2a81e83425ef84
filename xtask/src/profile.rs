//! `cargo xtask profile`: where the time of a row goes.

use std::{collections::BTreeMap, fs};

use clap::Parser;
use harness::{
    bench::Contender,
    process::free_port,
    profile::{self, Profile, ProfileError, Share},
    suite::Row,
};
use serde_json::json;

use crate::{
    exit::{Exit, Failure, OrExit, Outcome},
    pipeline::{self, Asked, Decided},
    repo::{self, Named},
    suite,
    ui::Ui,
};

/// Sample a workload's server under the load of one row: which functions take its time, and which instructions wait.
///
/// Needs Linux's `perf`. Shares alone are told; what a row takes is told by `cargo xtask bench`.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  cargo xtask profile quickstart --row prefill_512
  cargo xtask profile workloads/suite/cpu/qwen3-0-6b-int8.yaml --row decode_b8

Exit codes: 2 no such row, or one that is longer than the workload's context; 7 no perf, or it may not sample.")]
pub struct Args {
    #[command(flatten)]
    named: Named,
    /// `prefill_512`, `decode_b1`, `decode_b8`, `served`, `prefill_4096` or `decode_b1_8k`.
    #[arg(long, value_name = "ROW", default_value = "decode_b1")]
    row: String,
}

/// Runs the command.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let row = Row::by_name(&args.row).filter(|row| row.has_load());
    let row = row.ok_or_else(|| {
        let rows: Vec<_> = Row::ALL.into_iter().filter(|row| row.has_load()).map(Row::name).collect();
        Failure::new(
            Exit::Usage,
            format!("{} is no row with a load; those are {}", args.row, rows.join(", ")),
        )
    })?;
    let asked = Asked::read(args.named.files()?, ui)?;
    let decided = Decided::pinned(&asked)?;
    let job = suite::suite_job(&asked, &decided.memory, BTreeMap::new(), 1);
    if row.positions() > job.context {
        let message = format!(
            "{} needs {} positions, {} has {}",
            row.name(),
            row.positions(),
            asked.workload.name,
            job.context
        );
        return Err(Failure::new(Exit::Usage, message));
    }
    let artifact = decided.build(&asked, ui)?;
    let home = repo::target().join("profiles");
    fs::create_dir_all(&home).or_exit(Exit::Internal)?;
    let listen = free_port().or_exit(Exit::Environment)?;
    let own = Contender::own(&artifact, listen, home.join(format!("{}.log", artifact.name)));
    let step = ui.step("Profile", format!("{}, {}", artifact.name, row.name()));
    let note = |what: &str| step.note(what);
    let profiled = pipeline::runtime()?.block_on(profile::profile(&job, row, &own, &home, &note));
    let profile = profiled.map_err(|error| {
        let is_missing = matches!(error, ProfileError::NoPerf(_) | ProfileError::Perf { .. });
        Failure::new(if is_missing { Exit::Environment } else { Exit::Internal }, error)
    })?;
    step.done();
    show(&profile, ui);
    ui.print_json(&json!({
        "version": 1, "name": asked.workload.name, "row": row.name(), "profile": profile,
    }));
    Ok(())
}

fn show(profile: &Profile, ui: &Ui) {
    let line = |it: &Share| ui.print(format_args!("{:>6.1} %  {}", 100.0 * it.share, it.name));
    ui.print(format_args!("{}\n", profile.what));
    profile.functions.iter().for_each(line);
    if let Some(first) = profile.functions.first() {
        ui.print(format_args!("\nof {}:", first.name));
        profile.hottest.iter().for_each(line);
    }
}
