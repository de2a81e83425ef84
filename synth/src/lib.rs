//! The synthesizer: workload and model in, plan and crate out. Pure: no clock, no network, no CUDA.

pub mod axis;
pub mod calibration;
pub mod emit;
pub mod feasibility;
pub mod held;
mod hex;
pub mod image;
pub mod mechanism;
pub mod model;
pub mod plan;
pub mod planner;
pub mod reading;
pub mod source_tree;
pub mod target;
pub mod template;
pub mod workload;
mod yaml;

pub use hex::hex;
