//! A process and all that it started: some runtimes are several processes, and all of them count and all must end.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

/// The process and its descendants as they are now, itself first. Who lost its parent is not among them.
pub(super) fn members(pid: u32) -> Vec<u32> {
    let mut members = vec![pid];
    let mut next = 0;
    while let Some(pid) = members.get(next) {
        members.extend(children(*pid));
        next += 1;
    }
    members
}

/// Each thread is the parent of what it started.
fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok);
    threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|line| line.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// CPU time of a process, in ticks; `None` when it is gone.
pub(super) fn cpu_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces; utime and stime are the 12th and 13th fields after it.
    let fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2);
    Some(fields.filter_map(|n| n.parse::<u64>().ok()).sum())
}

/// Sends a signal to a process and its descendants.
pub(super) fn signal(pid: u32, signal: Signal) {
    for pid in members(pid) {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        // One that has ended needs none.
        let _ = pid.map(|pid| kill_process(pid, signal));
    }
}

/// The descendants of a process, held so that no later process can be mistaken for one of them.
pub(super) struct Descendants(Vec<OwnedFd>);

impl Descendants {
    pub(super) fn of(pid: u32) -> Self {
        let open = |pid: u32| {
            let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
            pidfd_open(pid, PidfdFlags::empty()).ok()
        };
        Self(members(pid).into_iter().skip(1).filter_map(open).collect())
    }

    /// Ends those that have not ended by themselves.
    pub(super) fn kill(self) {
        for process in self.0 {
            // One that has ended answers that it is not there, which is what is wanted.
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use super::*;

    /// A shell that is parent and grandparent of sleeping processes.
    fn family() -> Child {
        Command::new("/bin/sh")
            .args(["-c", "sh -c 'sleep 30; true' & sleep 30; true"])
            .stdout(Stdio::null())
            .spawn()
            .expect("a shell")
    }

    fn wait_for(count: usize, pid: u32) -> Vec<u32> {
        for _ in 0..500 {
            let found = members(pid);
            if found.len() == count {
                return found;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{:?} and not {count} members", members(pid));
    }

    #[test]
    fn children_and_grandchildren_are_members_and_end_with_it() {
        let mut shell = family();
        let members = wait_for(4, shell.id());
        assert_eq!(members[0], shell.id());
        let descendants = Descendants::of(shell.id());
        shell.kill().expect("it runs");
        descendants.kill();
        shell.wait().expect("it ended");
        for pid in &members[1..] {
            let is_running =
                || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
            (0..500).find(|_| {
                std::thread::sleep(Duration::from_millis(10));
                !is_running()
            });
            assert!(!is_running(), "{pid} outlived its family");
        }
    }
}
