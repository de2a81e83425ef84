//! One line of JSON on stderr per request, without a word of its prompt; and what becomes of a panic.

use std::{
    any::Any,
    future::poll_fn,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::atomic::{AtomicU16, AtomicUsize, Ordering},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::json;

/// The line of one request. It is written when the last owner drops it, which is when the answer has ended.
pub struct Entry {
    request_id: String,
    method: String,
    path: String,
    started: Instant,
    status: AtomicU16,
    n_prompt: AtomicUsize,
    n_completion: AtomicUsize,
}

impl Entry {
    /// A request that arrives now.
    pub fn new(request_id: String, method: &str, path: &str) -> Entry {
        Entry {
            request_id,
            method: method.to_owned(),
            path: path.chars().take(256).collect(),
            started: Instant::now(),
            status: AtomicU16::new(0),
            n_prompt: AtomicUsize::new(0),
            n_completion: AtomicUsize::new(0),
        }
    }

    /// The status that the client got.
    pub fn answered(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// Tokens so far.
    pub fn count(&self, n_prompt: usize, n_completion: usize) {
        self.n_prompt.store(n_prompt, Ordering::Relaxed);
        self.n_completion.store(n_completion, Ordering::Relaxed);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Without a status the client left before there was one; 499 is what proxies write then.
        let status = Some(self.status.load(Ordering::Relaxed)).filter(|&status| status != 0).unwrap_or(499);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        write_line(json!({
            "time_ms": now,
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path,
            "status": status,
            "duration_ms": self.started.elapsed().as_micros() as f64 / 1000.0,
            "prompt_tokens": self.n_prompt.load(Ordering::Relaxed),
            "completion_tokens": self.n_completion.load(Ordering::Relaxed),
        }));
    }
}

/// Writes a line to stderr; a closed stderr must not end the server.
pub fn write_line(line: serde_json::Value) {
    // One write, so that lines of several processes in one log do not mix.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Runs a future to its end or to its panic.
pub async fn survive<T>(future: impl Future<Output = T>) -> Result<T, Box<dyn Any + Send>> {
    let mut future = pin!(future);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(payload) => std::task::Poll::Ready(Err(payload)),
    })
    .await
}
