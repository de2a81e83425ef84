//! Whose the processors' time was: ours, the hypervisor's, or other processes'.

use std::fs;

/// Above this share of CPU time used by others or taken by the hypervisor, a measurement carries a caveat.
const NOISY: f64 = 0.05;

/// CPU time since boot, in ticks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clocks {
    total: u64,
    idle: u64,
    steal: u64,
    /// This process and the children it has waited for.
    ours: u64,
}

/// Shares of all processors' time, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shares {
    /// Taken by the hypervisor.
    pub(crate) steal: f64,
    /// Used by processes that are neither this one nor its children.
    pub(crate) foreign: f64,
}

impl Clocks {
    /// `None` where the kernel does not say.
    pub(crate) fn read() -> Option<Self> {
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

    /// The same, with time of children that have not been waited for.
    pub(crate) fn and_ours(self, ticks: u64) -> Self {
        Self { ours: self.ours + ticks, ..self }
    }

    /// Whose the time since `before` was; `None` when no tick has passed.
    pub(crate) fn shares_since(self, before: Self) -> Option<Shares> {
        let since = |now: u64, then: u64| now.saturating_sub(then) as f64;
        let total = since(self.total, before.total);
        let steal = since(self.steal, before.steal);
        let foreign = total - since(self.idle, before.idle) - steal - since(self.ours, before.ours);
        (total > 0.0).then(|| Shares { steal: steal / total, foreign: (foreign / total).clamp(0.0, 1.0) })
    }
}

/// Who disturbed a measurement, when these shares of the time are too much to pass over.
pub(crate) fn disturbance(steal: Option<f64>, foreign: Option<f64>) -> Option<String> {
    let noisy: Vec<String> = [("the hypervisor took", steal), ("other processes used", foreign)]
        .into_iter()
        .filter_map(|(who, share)| Some((who, share.filter(|share| *share > NOISY)?)))
        .map(|(who, share)| format!("{who} {:.0} % of the CPU time", 100.0 * share))
        .collect();
    (!noisy.is_empty()).then(|| noisy.join(", "))
}

/// Processes that wanted a core, mean of the last minute.
pub(crate) fn load_average() -> f64 {
    // The kernel gives 16 bits of fraction.
    rustix::system::sysinfo().loads[0] as f64 / f64::from(1 << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_shared_out_without_rest() {
        let before = Clocks { total: 1000, idle: 500, steal: 10, ours: 100 };
        let after = Clocks { total: 2000, idle: 900, steal: 60, ours: 550 };
        let shares = after.shares_since(before).expect("time has passed");
        assert!((shares.steal - 0.05).abs() < 1e-12 && (shares.foreign - 0.1).abs() < 1e-12);
        assert!(after.shares_since(after).is_none());
    }

    #[test]
    fn only_what_disturbs_is_told() {
        assert_eq!(disturbance(Some(0.01), None), None);
        assert_eq!(
            disturbance(Some(0.5), Some(0.4)).as_deref(),
            Some("the hypervisor took 50 % of the CPU time, other processes used 40 % of the CPU time")
        );
    }

    #[test]
    fn this_machine_counts_its_time() {
        assert!(Clocks::read().is_some_and(|clocks| clocks.total >= clocks.idle));
    }
}
