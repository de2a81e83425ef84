//! The machine of a bench, and how quiet it was.

use std::fs;

use serde::{Deserialize, Serialize};

use super::Versus;
use crate::clocks::{Clocks, disturbance, load_average};
use crate::probe::cpu_name;
use crate::stats::ascending;

/// The machine, as its reports name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// CPU model name.
    pub cpu: String,
    /// Logical CPUs that this process may use.
    pub cores: usize,
    /// Physical memory, bytes.
    pub memory_bytes: u64,
    /// Kernel release.
    pub kernel: String,
    /// Frequency governor, where the kernel shows one.
    pub governor: Option<String>,
}

/// What disturbed a bench.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Noise {
    /// Load averages over one minute, before and after; the servers under load are part of the second.
    pub load: [f64; 2],
    /// Share of CPU time that the hypervisor took while the bench ran.
    pub steal_share: Option<f64>,
    /// Share of CPU time that processes other than the harness and its servers used meanwhile.
    pub foreign_share: Option<f64>,
    /// Largest spread of own blocks over the cells: median absolute deviation ÷ median.
    pub spread: Option<f64>,
    /// Largest lateness of the load generator over the cells, 99th percentile, milliseconds.
    pub lateness_p99_ms: f64,
}

impl Noise {
    /// What to tell a reader, when the machine was not the bench's own.
    #[must_use]
    pub fn caveat(&self) -> Option<String> {
        let disturbed = disturbance(self.steal_share, self.foreign_share)?;
        Some(format!("the machine was noisy: {disturbed}"))
    }
}

impl Host {
    /// This machine. What the kernel does not show is empty.
    #[must_use]
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let memory = rustix::system::sysinfo();
        let governor = text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").trim().to_owned();
        Self {
            cpu: cpu_name(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: memory.totalram as u64 * u64::from(memory.mem_unit),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            governor: (!governor.is_empty()).then_some(governor),
        }
    }
}

/// CPU clocks at the start of a bench.
#[derive(Debug)]
pub(crate) struct Watch {
    load: f64,
    clocks: Option<Clocks>,
}

impl Watch {
    /// From now on. `ticks` is the CPU time that servers which are up have used so far: it is ours, and no stranger's.
    pub(crate) fn start(ticks: u64) -> Self {
        Self { load: load_average(), clocks: Clocks::read().map(|clocks| clocks.and_ours(ticks)) }
    }

    /// What happened since. Every server must have been stopped, or its time counts as a stranger's.
    pub(super) fn of_races(&self, races: &[Versus]) -> Noise {
        let cells = || races.iter().flat_map(|versus| &versus.cells);
        let spread = ascending(cells().filter_map(super::Cell::spread)).last().copied();
        let lateness = cells()
            .flat_map(|cell| [cell.own.lateness_p99_ms, cell.reference.lateness_p99_ms])
            .fold(0.0, f64::max);
        self.noise(0, spread, lateness)
    }

    /// What happened since, with the CPU time that servers which are still up have used by now.
    pub(crate) fn noise(&self, ticks: u64, spread: Option<f64>, lateness_p99_ms: f64) -> Noise {
        let now = Clocks::read().map(|clocks| clocks.and_ours(ticks));
        let shares = self.clocks.zip(now).and_then(|(before, after)| after.shares_since(before));
        Noise {
            load: [self.load, load_average()],
            steal_share: shares.map(|it| it.steal),
            foreign_share: shares.map(|it| it.foreign),
            spread,
            lateness_p99_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_told_only_when_there_is_some() {
        let quiet = Noise {
            load: [0.1, 1.9],
            steal_share: Some(0.01),
            foreign_share: None,
            spread: None,
            lateness_p99_ms: 0.1,
        };
        assert_eq!(quiet.caveat(), None);
        let noisy = Noise { foreign_share: Some(0.4), ..quiet };
        assert!(noisy.caveat().is_some_and(|caveat| caveat.contains("other processes used 40 %")));
    }

    #[test]
    fn this_machine_has_cores_and_memory() {
        let host = Host::read();
        assert!(host.cores > 0 && host.memory_bytes > 0);
    }
}
