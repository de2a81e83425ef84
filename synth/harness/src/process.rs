//! One server process: started, waited for, watched, stopped.
//!
//! Every runtime in a comparison is a child of this module, so readiness, start-up time and memory are measured
//! the same way on both sides.

mod family;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use family::Descendants;

/// Pause between two looks at a server that is not ready yet; it bounds the error of [`Server::ready_after`].
const POLL: Duration = Duration::from_millis(2);

/// How long a server may take to answer one readiness request; llama.cpp answers late while it loads.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How long a server has to drain after SIGTERM before it is killed.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// Most bytes of the log that an error carries.
const TAIL_BYTES: u64 = 4096;

/// What to start, and how to see that it is ready.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments, in order; they must make it listen on `listen`.
    pub args: Vec<OsString>,
    /// Variables added to the inherited environment.
    pub env: Vec<(String, String)>,
    /// Where the server is told to listen.
    pub listen: SocketAddr,
    /// The path that answers 2xx once the server can serve, such as `/health`.
    pub ready_path: &'static str,
    /// How long to wait for that answer.
    pub timeout: Duration,
    /// Where stdout and stderr go; truncated at start.
    pub log: PathBuf,
}

/// Why a server could not be started, watched or stopped.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields hold")]
pub enum ProcessError {
    #[error("{listen} is taken by another process; choose a free port")]
    Taken { listen: SocketAddr },
    #[error("cannot open the log {}: {source}", path.display())]
    Log { path: PathBuf, source: io::Error },
    #[error("cannot start {}: {source}", program.display())]
    Spawn { program: PathBuf, source: io::Error },
    #[error("{} ended with {status} before it was ready; its log ends with:\n{tail}", program.display())]
    Ended { program: PathBuf, status: String, tail: String },
    #[error("{} was not ready within {after:?} (GET {path} on {listen}); its log ends with:\n{tail}", program.display())]
    NotReady { program: PathBuf, path: &'static str, listen: SocketAddr, after: Duration, tail: String },
    #[error("cannot read {path}: {reason}")]
    Proc { path: String, reason: String },
    #[error("cannot stop process {pid}: {source}")]
    Stop { pid: u32, source: io::Error },
}

/// A running server. Dropping it kills the process it started with what that started, and no other.
#[derive(Debug)]
pub struct Server {
    child: Child,
    pid: u32,
    addr: SocketAddr,
    started: Instant,
    ready_after: Duration,
    log: PathBuf,
}

impl Server {
    /// Starts the process and waits until it answers on its readiness path.
    ///
    /// # Errors
    /// When the address is taken, the program cannot be started, ends early, or is not ready in time. The last two
    /// carry the end of the log.
    pub async fn start(launch: Launch) -> Result<Self, ProcessError> {
        // A stranger on the port would answer in the server's place and be measured for it.
        if TcpListener::bind(launch.listen).is_err() {
            return Err(ProcessError::Taken { listen: launch.listen });
        }
        let log = |source| ProcessError::Log { path: launch.log.clone(), source };
        let stdout = File::create(&launch.log).map_err(log)?;
        let stderr = stdout.try_clone().map_err(log)?;
        let spawn = |source| ProcessError::Spawn { program: launch.program.clone(), source };
        let started = Instant::now();
        let child = Command::new(&launch.program)
            .args(&launch.args)
            .envs(launch.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .map_err(spawn)?;
        let pid = child.id().ok_or_else(|| spawn(io::Error::other("it has no process id")))?;
        // A server from here on, so that every way out ends all of its processes.
        let mut server = Self {
            child,
            pid,
            addr: launch.listen,
            started,
            ready_after: Duration::ZERO,
            log: launch.log.clone(),
        };

        server.ready_after = loop {
            if let Some(status) = server.child.try_wait().map_err(spawn)? {
                let tail = tail(&launch.log);
                return Err(ProcessError::Ended {
                    program: launch.program,
                    status: status.to_string(),
                    tail,
                });
            }
            if is_ready(launch.listen, launch.ready_path).await {
                break started.elapsed();
            }
            if started.elapsed() > launch.timeout {
                let tail = tail(&launch.log);
                return Err(ProcessError::NotReady {
                    program: launch.program,
                    path: launch.ready_path,
                    listen: launch.listen,
                    after: launch.timeout,
                    tail,
                });
            }
            sleep(POLL).await;
        };
        Ok(server)
    }

    /// The root of the server's URLs, without a trailing slash.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Where the server listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The id of the server's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Time from exec to the first 2xx on the readiness path.
    #[must_use]
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Time since exec.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// The end of the server's log, for messages about a server that failed later.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }

    /// The most physical memory that the server's processes ever held, in bytes (`VmHWM`). Of several processes it is
    /// the sum of their peaks: pages that they share count in each, and peaks of different moments are added.
    ///
    /// # Errors
    /// When the process is gone or `/proc` does not name the value.
    pub fn peak_rss_bytes(&self) -> Result<u64, ProcessError> {
        let own = memory(self.pid, "VmHWM")?;
        // One that ends while it is looked at holds nothing any more.
        let of = |pid: &u32| memory(*pid, "VmHWM").unwrap_or(0);
        Ok(own + family::members(self.pid).iter().skip(1).map(of).sum::<u64>())
    }

    /// Physical memory that an idle server holds once it takes no more: an emitted one is granted its cache behind its
    /// first answers.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn settled_rss_bytes(&self) -> Result<u64, ProcessError> {
        /// Twice as long as the emitted server's granting thread ever sleeps.
        const STILL: Duration = Duration::from_secs(1);
        let mut held = self.rss_bytes()?;
        loop {
            sleep(STILL).await;
            let before = std::mem::replace(&mut held, self.rss_bytes()?);
            if held == before {
                return Ok(held);
            }
        }
    }

    /// The physical memory the process holds now, in bytes (`VmRSS`).
    ///
    /// # Errors
    /// When the process is gone or `/proc` does not name the value.
    pub fn rss_bytes(&self) -> Result<u64, ProcessError> {
        memory(self.pid, "VmRSS")
    }

    /// CPU time that its processes have used, in ticks. One that has ended no longer counts.
    #[must_use]
    pub fn cpu_ticks(&self) -> u64 {
        family::members(self.pid).into_iter().filter_map(family::cpu_ticks).sum()
    }

    /// Stops all of its processes where they are, until [`Server::resume`]: some work although nobody asks them.
    pub fn suspend(&self) {
        family::signal(self.pid, Signal::STOP);
    }

    /// Lets them go on.
    pub fn resume(&self) {
        family::signal(self.pid, Signal::CONT);
    }

    /// Asks the server to drain (SIGTERM), waits, and kills it if it does not end in time.
    ///
    /// # Errors
    /// When the process can be neither waited for nor killed.
    pub async fn stop(mut self) -> Result<(), ProcessError> {
        let stop = |source| ProcessError::Stop { pid: self.pid, source };
        let descendants = Descendants::of(self.pid);
        self.resume();
        // While the child is not reaped its id cannot be another process's.
        let ended = self.child.try_wait().map_err(stop)?.is_some();
        if !ended && let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).map_err(|error| stop(error.into()))?;
        }
        let ended = match timeout(DRAIN_WITHIN, self.child.wait()).await {
            Ok(status) => status.map(drop).map_err(stop),
            Err(_) => self.child.kill().await.map_err(stop),
        };
        descendants.kill();
        ended
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The first process is killed with its handle, and has not been reaped before that.
        if self.child.id().is_some() {
            Descendants::of(self.pid).kill();
        }
    }
}

/// A port on the loopback interface that nobody listens on at this moment.
///
/// # Errors
/// When the system has none to give.
pub fn free_port() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// Physical memory that a new process could have, in bytes, as the kernel estimates it.
#[must_use]
pub fn available_memory_bytes() -> Option<u64> {
    kib_of(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable").map(|kib| kib * 1024)
}

/// Memory that holds nothing, the page cache neither; `None` where the kernel does not say.
pub fn free_memory_bytes() -> Option<u64> {
    kib_of(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemFree").map(|kib| kib * 1024)
}

/// Whether one GET on its own connection is answered with 2xx.
async fn is_ready(addr: SocketAddr, path: &str) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(addr).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut status_line = [0; 12];
        stream.read_exact(&mut status_line).await?;
        io::Result::Ok(status_line.starts_with(b"HTTP/1.1 2"))
    };
    matches!(timeout(ANSWER_WITHIN, ask).await, Ok(Ok(true)))
}

/// One `kB` value of `/proc/PID/status`, in bytes.
fn memory(pid: u32, key: &str) -> Result<u64, ProcessError> {
    let path = format!("/proc/{pid}/status");
    let fail = |reason: String| ProcessError::Proc { path: path.clone(), reason };
    let status = std::fs::read_to_string(&path).map_err(|error| fail(error.to_string()))?;
    kib_of(&status, key)
        .map(|kib| kib * 1024)
        .ok_or_else(|| fail(format!("no line {key}: the process has ended")))
}

/// One `kB` value among lines of `key: value`.
fn kib_of(lines: &str, key: &str) -> Option<u64> {
    let value = lines
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':')?.trim().strip_suffix("kB"))?;
    value.trim().parse().ok()
}

/// The last lines of a log, for people.
fn tail(log: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    };
    read().unwrap_or_else(|error| format!("(no log at {}: {error})", log.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(script: &str, listen: SocketAddr, log: &str) -> Launch {
        let log = std::env::temp_dir().join(format!("savile-{}-{log}.log", std::process::id()));
        Launch {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("GREETING".into(), "hello from the child".into())],
            listen,
            ready_path: "/health",
            timeout: Duration::from_millis(300),
            log,
        }
    }

    #[tokio::test]
    async fn a_server_that_ends_early_is_reported_with_its_log() {
        let listen = free_port().expect("a port");
        let error =
            Server::start(launch("echo \"$GREETING\"; exit 3", listen, "early")).await.expect_err("it ends");
        assert!(matches!(error, ProcessError::Ended { .. }), "{error}");
        assert!(error.to_string().contains("hello from the child"), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_never_listens_is_reported_and_killed() {
        let listen = free_port().expect("a port");
        let error = Server::start(launch("echo waiting; exec sleep 30", listen, "mute"))
            .await
            .expect_err("it is mute");
        assert!(matches!(error, ProcessError::NotReady { .. }), "{error}");
        assert!(error.to_string().contains("waiting"), "{error}");
    }

    #[tokio::test]
    async fn a_taken_address_is_refused_before_anything_starts() {
        let stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
        let listen = stranger.local_addr().expect("its address");
        let error = Server::start(launch("exec sleep 30", listen, "taken")).await.expect_err("it is taken");
        assert!(matches!(error, ProcessError::Taken { .. }), "{error}");
    }

    #[test]
    fn memory_of_this_process_is_plausible() {
        // The peak last: other tests take memory meanwhile.
        let now = memory(std::process::id(), "VmRSS").expect("a size");
        let peak = memory(std::process::id(), "VmHWM").expect("a peak");
        assert!(now > 0 && peak >= now && peak < 1 << 40);
        assert!(available_memory_bytes().is_some_and(|bytes| bytes > 0));
    }
}
