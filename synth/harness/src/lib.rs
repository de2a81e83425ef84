//! Probe, build, prove, bench, reference runtimes, statistics, ledger.

pub mod bench;
pub mod build;
pub mod calibrate;
mod checkpoint;
pub mod client;
mod clocks;
pub mod counters;
pub mod hub;
pub mod image;
pub mod ledger;
pub mod load;
pub mod metrics;
pub mod model_maker;
pub mod mutants;
pub mod probe;
pub mod process;
pub mod profile;
pub mod prove;
pub mod quantise;
mod random;
pub mod reference;
pub mod report;
#[cfg(test)]
mod scripted;
pub mod stats;
pub mod suite;
