//! What one thread of a server does, counted by the kernel's own means: its system calls, or each of its instructions.
//!
//! Instructions are counted by the processor where that can be asked. Many virtual machines hide it; one at a time
//! (`PTRACE_SINGLESTEP`) they can be counted everywhere, at some ten microseconds for each. The other threads of the pool are
//! held meanwhile: nobody waits for a worker that does not come, so the thread that is counted does all the work and waits
//! for no one.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    os::{fd::FromRawFd, unix::fs::FileExt},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    SystemCalls,
    /// One at a time.
    Instructions,
    /// Nothing: the others are held, and the processor counts.
    Held,
}

/// A thread that is being counted, until told to end.
pub(super) struct Tracer {
    /// What is counted, and what multiplies among it.
    counts: Arc<[AtomicU64; 2]>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Tracer {
    /// Begins to count what the thread does, while those in `held` stand still.
    pub(super) fn begin(what: What, thread_id: i32, held: Vec<i32>) -> io::Result<Self> {
        let (counts, end) = (Arc::new([const { AtomicU64::new(0) }; 2]), Arc::new(AtomicBool::new(false)));
        let (ready, begun) = std::sync::mpsc::channel();
        let thread = thread::spawn({
            let (counts, end) = (Arc::clone(&counts), Arc::clone(&end));
            move || {
                let followed = (what != What::Held).then_some(thread_id);
                let seized = seize_all(held.iter().copied().chain(followed));
                let is_seized = seized.is_ok();
                // Who waits for it reads the reason below.
                let _ = ready.send(is_seized);
                seized?;
                match followed {
                    Some(thread_id) => follow(what, thread_id, &counts, &end)?,
                    None => {
                        while !end.load(Ordering::Acquire) {
                            thread::sleep(Duration::from_millis(1));
                        }
                    }
                }
                // They wait where they were stopped, and go on when this thread lets them.
                held.iter().try_for_each(|id| ask(libc::PTRACE_DETACH, *id, 0))
            }
        });
        let mut tracer = Self { counts, end, thread: Some(thread) };
        match begun.recv() {
            Ok(true) => Ok(tracer),
            _ => Err(tracer.join().err().unwrap_or_else(|| io::Error::other("the tracer ended"))),
        }
    }

    /// How many there were so far, and how many of them multiply.
    pub(super) fn count(&self) -> [u64; 2] {
        [0, 1].map(|of| self.counts[of].load(Ordering::Acquire))
    }

    /// Lets the threads go on as they were.
    pub(super) fn end(mut self) -> io::Result<()> {
        self.join()
    }

    fn join(&mut self) -> io::Result<()> {
        self.end.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the tracer panicked")))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Whoever drops it has a failure of its own to tell.
        let _ = self.join();
    }
}

fn seize_all(threads: impl Iterator<Item = i32>) -> io::Result<()> {
    for id in threads {
        ask(libc::PTRACE_SEIZE, id, libc::PTRACE_O_TRACESYSGOOD as usize)?;
        ask(libc::PTRACE_INTERRUPT, id, 0)?;
        wait(id, 0)?;
    }
    Ok(())
}

/// Instructions of a thread outside the kernel, counted by the processor.
pub(super) struct Processor(File);

impl Processor {
    /// Counts from now on, where the system lets us.
    pub(super) fn begin(thread_id: i32) -> io::Result<Self> {
        /// Bytes of the request in its first version, and the places of what is set in it: `perf_event_attr`.
        const BYTES: usize = 64;
        const SIZE_AT: usize = 4;
        const CONFIG_AT: usize = 8;
        const FLAGS_AT: usize = 40;
        /// Not the kernel's, nor the hypervisor's.
        const FLAGS: u8 = 1 << 5 | 1 << 6;
        let mut request = [0u8; BYTES];
        request[SIZE_AT] = BYTES as u8;
        // Of the events of the hardware, whose type is 0: retired instructions.
        request[CONFIG_AT] = 1;
        request[FLAGS_AT] = FLAGS;
        // SAFETY: the request is of the size that it says; on any processor, in no group, without flags.
        let file = unsafe {
            libc::syscall(libc::SYS_perf_event_open, request.as_ptr(), thread_id, -1i32, -1i32, 0usize)
        };
        match i32::try_from(file) {
            // SAFETY: the file was opened right now, and nobody else has it.
            Ok(file) if file >= 0 => Ok(Self(unsafe { File::from_raw_fd(file) })),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// How many there were so far.
    pub(super) fn count(&self) -> io::Result<u64> {
        let mut count = [0; 8];
        (&self.0).read_exact(&mut count)?;
        Ok(u64::from_le_bytes(count))
    }
}

/// Lets the thread go from stop to stop and counts, until it is to end; the thread then runs free.
fn follow(what: What, id: i32, counts: &[AtomicU64; 2], end: &AtomicBool) -> io::Result<()> {
    /// A stop at a system call, as `PTRACE_O_TRACESYSGOOD` marks it.
    const AT_CALL: i32 = libc::SIGTRAP | 0x80;
    let step = match what {
        What::Instructions => libc::PTRACE_SINGLESTEP,
        What::SystemCalls | What::Held => libc::PTRACE_SYSCALL,
    };
    let mut is_inside = false;
    let mut code = Code::of(id)?;
    let mut last = 0;
    ask(step, id, 0)?;
    loop {
        let Some(status) = wait(id, libc::WNOHANG)? else {
            if end.load(Ordering::Acquire) {
                return let_go(id);
            }
            if what == What::SystemCalls {
                thread::sleep(Duration::from_micros(20));
            }
            continue;
        };
        if !libc::WIFSTOPPED(status) {
            return Err(io::Error::other("the server ended"));
        }
        let is_interrupt = status >> 16 == libc::PTRACE_EVENT_STOP;
        let signal = libc::WSTOPSIG(status);
        match what {
            What::SystemCalls if signal == AT_CALL => {
                is_inside = !is_inside;
                counts[0].fetch_add(u64::from(is_inside), Ordering::AcqRel);
            }
            What::Instructions if signal == libc::SIGTRAP && !is_interrupt => {
                // One that repeats itself, as a copy of many bytes, stops at each of them, and is one instruction.
                let at = code.pointer();
                if at != last {
                    counts[0].fetch_add(1, Ordering::AcqRel);
                    counts[1].fetch_add(u64::from(code.is_multiplication(at)?), Ordering::AcqRel);
                }
                last = at;
            }
            _ => {}
        }
        ask(step, id, 0)?;
    }
}

/// Lets a thread that runs go on without us. A trap of its last step that nobody takes would end the whole server, and any
/// stop takes the one that was asked for with it: so it is asked again, without steps, until it stops for that alone.
fn let_go(id: i32) -> io::Result<()> {
    loop {
        ask(libc::PTRACE_INTERRUPT, id, 0)?;
        let Some(status) = wait(id, 0)? else { continue };
        if !libc::WIFSTOPPED(status) {
            return Err(io::Error::other("the server ended"));
        }
        ask(libc::PTRACE_CONT, id, 0)?;
        // Whatever was on its way arrives.
        thread::sleep(Duration::from_millis(5));
        if wait(id, libc::WNOHANG)?.is_some() {
            ask(libc::PTRACE_CONT, id, 0)?;
            continue;
        }
        ask(libc::PTRACE_INTERRUPT, id, 0)?;
        let Some(status) = wait(id, 0)? else { continue };
        if status >> 16 == libc::PTRACE_EVENT_STOP {
            return ask(libc::PTRACE_DETACH, id, 0);
        }
        ask(libc::PTRACE_CONT, id, 0)?;
    }
}

/// The code of a thread, and what is known of it by now.
struct Code {
    id: i32,
    memory: File,
    multiplies: HashMap<u64, bool>,
}

impl Code {
    fn of(id: i32) -> io::Result<Self> {
        Ok(Self { id, memory: File::open(format!("/proc/{id}/mem"))?, multiplies: HashMap::new() })
    }

    /// Where the instruction is that the thread stands before.
    fn pointer(&self) -> u64 {
        /// The place of the instruction pointer among the registers.
        const POINTER: usize = 16 * size_of::<u64>();
        // SAFETY: it reads one word of the thread that is stopped.
        unsafe { libc::ptrace(libc::PTRACE_PEEKUSER, self.id, POINTER, 0usize) as u64 }
    }

    /// Whether the instruction there multiplies and adds.
    fn is_multiplication(&mut self, at: u64) -> io::Result<bool> {
        if let Some(known) = self.multiplies.get(&at) {
            return Ok(*known);
        }
        let mut bytes = [0; 6];
        self.memory.read_at(&mut bytes, at)?;
        Ok(*self.multiplies.entry(at).or_insert(multiplies(&bytes)))
    }
}

/// Whether an instruction that begins so multiplies and adds numbers of vectors or tiles: by Intel's manual, all of them but
/// one are in the map of opcodes 0F38, behind a prefix of VEX or EVEX.
fn multiplies(bytes: &[u8; 6]) -> bool {
    let (map, prefix, opcode) = match *bytes {
        [0xC5, flags, opcode, ..] => (1, flags & 3, opcode),
        [0xC4, map, flags, opcode, ..] => (map & 0x1F, flags & 3, opcode),
        [0x62, map, flags, _, opcode, _] => (map & 7, flags & 3, opcode),
        _ => return false,
    };
    const NONE: u8 = 0;
    const X66: u8 = 1;
    const XF3: u8 = 2;
    const XF2: u8 = 3;
    match (map, prefix, opcode) {
        // vpmaddwd.
        (1, X66, 0xF5) => true,
        // vpmaddubsw.
        (2, X66, 0x04) => true,
        // vfmadd and vfnmadd of whole vectors, in their three orders; vpdpbusd and vpdpwssd, with and without saturation.
        (2, X66, 0x98 | 0xA8 | 0xB8 | 0x9C | 0xAC | 0xBC | 0x50..=0x53) => true,
        // vdpbf16ps, tdpbf16ps.
        (2, XF3, 0x52 | 0x5C) => true,
        // vpdpb of other signs; tdpb of all signs.
        (2, NONE | XF2 | XF3, 0x50 | 0x51) | (2, NONE | X66 | XF2 | XF3, 0x5E) => true,
        _ => false,
    }
}

fn ask(request: libc::c_uint, id: i32, data: usize) -> io::Result<()> {
    // SAFETY: none of these requests reads or writes memory of this process.
    match unsafe { libc::ptrace(request, id, 0usize, data) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The status of the thread, or none yet.
fn wait(id: i32, flags: i32) -> io::Result<Option<i32>> {
    let mut status = 0;
    // SAFETY: the status is ours.
    match unsafe { libc::waitpid(id, &raw mut status, libc::__WALL | flags) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        _ => Ok(Some(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_multiplies_is_told_from_what_does_not() {
        for (bytes, what) in [
            ([0x62, 0xF2, 0x7D, 0x48, 0xB8, 0xC1], "vfmadd231ps zmm0, zmm0, zmm1"),
            ([0xC4, 0xE2, 0x7D, 0xB8, 0xC1, 0x90], "vfmadd231ps ymm0, ymm0, ymm1"),
            ([0x62, 0xF2, 0x76, 0x48, 0x52, 0xC2], "vdpbf16ps zmm0, zmm1, zmm2"),
            ([0x62, 0xF2, 0x75, 0x48, 0x50, 0xC2], "vpdpbusd zmm0, zmm1, zmm2"),
            ([0xC4, 0xE2, 0x4A, 0x5C, 0xC4, 0x90], "tdpbf16ps tmm0, tmm4, tmm6"),
            ([0xC4, 0xE2, 0x4B, 0x5E, 0xC4, 0x90], "tdpbssd tmm0, tmm4, tmm6"),
            ([0xC4, 0xE2, 0x7D, 0x04, 0xC1, 0x90], "vpmaddubsw ymm0, ymm0, ymm1"),
            ([0xC5, 0xFD, 0xF5, 0xC1, 0x90, 0x90], "vpmaddwd ymm0, ymm0, ymm1"),
            ([0xC4, 0xC1, 0x7D, 0xF5, 0xC0, 0x90], "vpmaddwd ymm0, ymm0, ymm8"),
        ] {
            assert!(multiplies(&bytes), "{what}");
        }
        for (bytes, what) in [
            ([0x62, 0xF1, 0x7C, 0x48, 0x58, 0xC1], "vaddps zmm0, zmm0, zmm1"),
            ([0x62, 0xF1, 0x7C, 0x48, 0x10, 0x07], "vmovups zmm0, [rdi]"),
            ([0xC5, 0xFC, 0x58, 0xC1, 0x90, 0x90], "vaddps ymm0, ymm0, ymm1"),
            ([0x48, 0x01, 0xC8, 0x90, 0x90, 0x90], "add rax, rcx"),
            ([0xC4, 0xE2, 0x7B, 0x4B, 0x04, 0x0E], "tileloadd tmm0, [rsi + rcx]"),
        ] {
            assert!(!multiplies(&bytes), "{what}");
        }
    }
}
