//! The machine of a bench, and how quiet it was.

use std::fs;

use serde::{Deserialize, Serialize};

use super::Versus;
use crate::stats::ascending;

/// Above this share of CPU time used by strangers or taken by the hypervisor, a bench carries a caveat.
const NOISY: f64 = 0.05;

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
        let noisy: Vec<String> =
            [("the hypervisor took", self.steal_share), ("other processes used", self.foreign_share)]
                .into_iter()
                .filter_map(|(who, share)| Some((who, share.filter(|share| *share > NOISY)?)))
                .map(|(who, share)| format!("{who} {:.0} % of the CPU time", 100.0 * share))
                .collect();
        (!noisy.is_empty()).then(|| format!("the machine was noisy: {}", noisy.join(", ")))
    }
}

impl Host {
    /// This machine. What the kernel does not show is empty or 0.
    #[must_use]
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, key: &str| -> Option<String> {
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let kib = field(&text("/proc/meminfo"), "MemTotal")
            .and_then(|value| value.strip_suffix("kB")?.trim().parse::<u64>().ok());
        let governor = text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").trim().to_owned();
        Self {
            cpu: field(&text("/proc/cpuinfo"), "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: kib.unwrap_or(0) * 1024,
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            governor: (!governor.is_empty()).then_some(governor),
        }
    }
}

/// CPU clocks at the start of a bench.
#[derive(Debug)]
pub(super) struct Watch {
    load: f64,
    clocks: Option<Clocks>,
}

/// CPU time since boot, in ticks.
#[derive(Debug, Clone, Copy)]
struct Clocks {
    total: u64,
    idle: u64,
    steal: u64,
    /// This process and the children it has waited for.
    ours: u64,
}

impl Watch {
    pub(super) fn start() -> Self {
        Self { load: load_average(), clocks: Clocks::read() }
    }

    /// What happened since. Every server must have been stopped, or its time counts as a stranger's.
    pub(super) fn finish(self, races: &[Versus]) -> Noise {
        let cells = || races.iter().flat_map(|versus| &versus.cells);
        let shares = self.clocks.zip(Clocks::read()).and_then(|(before, after)| after.shares_since(before));
        Noise {
            load: [self.load, load_average()],
            steal_share: shares.map(|(steal, _)| steal),
            foreign_share: shares.map(|(_, foreign)| foreign),
            spread: ascending(cells().filter_map(super::Cell::spread)).last().copied(),
            lateness_p99_ms: cells()
                .flat_map(|cell| [cell.own.lateness_p99_ms, cell.reference.lateness_p99_ms])
                .fold(0.0, f64::max),
        }
    }
}

impl Clocks {
    fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        // user nice system idle iowait irq softirq steal; guest time is inside user time.
        let fields: Vec<u64> =
            stat.lines().next()?.split_whitespace().skip(1).take(8).filter_map(|n| n.parse().ok()).collect();
        let [user, nice, system, idle, iowait, irq, softirq, steal] = fields.try_into().ok()?;
        let own = fs::read_to_string("/proc/self/stat").ok()?;
        // The name in parentheses may hold spaces; utime, stime, cutime and cstime are the 12th to 15th fields after.
        let after_name = own.rsplit_once(')')?.1;
        let ours = after_name.split_whitespace().skip(11).take(4).filter_map(|n| n.parse::<u64>().ok()).sum();
        let idle = idle + iowait;
        Some(Self { total: user + nice + system + idle + irq + softirq + steal, idle, steal, ours })
    }

    /// The hypervisor's and the strangers' shares of the time since `before`.
    fn shares_since(self, before: Self) -> Option<(f64, f64)> {
        let since = |now: u64, then: u64| now.saturating_sub(then) as f64;
        let total = since(self.total, before.total);
        let steal = since(self.steal, before.steal);
        let foreign = total - since(self.idle, before.idle) - steal - since(self.ours, before.ours);
        (total > 0.0).then(|| (steal / total, (foreign / total).clamp(0.0, 1.0)))
    }
}

fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_shared_out_without_rest() {
        let before = Clocks { total: 1000, idle: 500, steal: 10, ours: 100 };
        let after = Clocks { total: 2000, idle: 900, steal: 60, ours: 550 };
        let (steal, foreign) = after.shares_since(before).expect("time has passed");
        assert!((steal - 0.05).abs() < 1e-12 && (foreign - 0.1).abs() < 1e-12);
        assert!(after.shares_since(after).is_none());
    }

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
        assert!(Clocks::read().is_some_and(|clocks| clocks.total >= clocks.idle));
    }
}
