//! Counters, gauges and histograms under vLLM's names, so that its dashboards and routers read them unchanged.
//!
//! Everything is an atomic that exists from the start: an update allocates nothing and takes no lock.

use std::{
    fmt::{self, Display, Write},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// vLLM's bucket edges for the time to the first token, in seconds.
const TTFT_EDGES: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
/// vLLM's bucket edges for the time between tokens, in seconds.
const ITL_EDGES: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
/// vLLM's bucket edges for whole requests and their phases, in seconds.
const REQUEST_EDGES: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
];
/// vLLM's bucket edges for tokens per engine step.
const STEP_TOKENS_EDGES: &[f64] =
    &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];
/// Ours: a step of a small model on a CPU takes tens of microseconds, one of a large prefill seconds.
const STEP_EDGES: &[f64] =
    &[0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// A number that only grows.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that is set.
#[derive(Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// The value last set, 0 at first.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// Observations counted in fixed buckets.
pub struct Histogram {
    edges: Vec<f64>,
    /// One count per edge and one for what lies above the last.
    counts: Vec<AtomicU64>,
    sum: AtomicU64,
}

impl Histogram {
    fn new(edges: &[f64]) -> Histogram {
        let counts = (0..=edges.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { edges: edges.to_vec(), counts, sum: AtomicU64::new(0.0_f64.to_bits()) }
    }

    /// Counts one observation.
    pub fn observe(&self, value: f64) {
        let bucket = self.edges.partition_point(|&edge| edge < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let add = |sum: u64| Some((f64::from_bits(sum) + value).to_bits());
        // The closure always returns a value, so the update always succeeds.
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Counts one duration, in seconds.
    pub fn observe_seconds(&self, duration: Duration) {
        self.observe(duration.as_secs_f64());
    }
}

/// The shape of the KV cache, which prefix-aware routers read.
#[derive(Debug, Clone, Copy)]
pub struct CacheShape {
    /// Positions per block.
    pub block_size: usize,
    /// Blocks in the cache.
    pub n_blocks: usize,
}

/// All that the server counts.
///
/// The engine's thread calls [`Metrics::step`] and sets `kv_cache_usage`; `prefix_cache_queries`,
/// `prefix_cache_hits` and `preemptions` if it has them. The queue and the event senders of
/// [`crate::request`] keep the rest.
pub struct Metrics {
    model: String,
    cache: CacheShape,
    born: Instant,
    /// Milliseconds since `born` at which the engine last made a step, or was last given work while idle.
    progress_ms: AtomicU64,
    /// Sequences the engine has taken from the queue and not finished.
    pub requests_running: AtomicU64,
    /// Requests in the queue.
    pub requests_waiting: AtomicU64,
    /// Share of KV blocks in use, 0 to 1.
    pub kv_cache_usage: Gauge,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_cache_queries: Counter,
    /// Prompt tokens found there.
    pub prefix_cache_hits: Counter,
    /// Sequences whose blocks were taken back.
    pub preemptions: Counter,
    /// Requests refused because the queue was full.
    pub admission_rejections: Counter,
    /// Prompt tokens of requests that produced a first token.
    pub prompt_tokens: Counter,
    /// Tokens produced.
    pub generation_tokens: Counter,
    /// Requests ended by an end-of-sequence token or a stop string.
    pub finished_stop: Counter,
    /// Requests ended by their token bound.
    pub finished_length: Counter,
    /// Requests given up: the client went away or the engine failed.
    pub aborted: Counter,
    /// From arrival to the first token.
    pub time_to_first_token: Histogram,
    /// From one token to the next.
    pub inter_token_latency: Histogram,
    /// From arrival to the last token.
    pub request_latency: Histogram,
    /// From arrival to being taken from the queue.
    pub queue_time: Histogram,
    /// From being taken to the first token.
    pub prefill_time: Histogram,
    /// From the first token to the last.
    pub decode_time: Histogram,
    /// Prompt lengths.
    pub request_prompt_tokens: Histogram,
    /// Output lengths.
    pub request_generation_tokens: Histogram,
    /// Tokens computed per step.
    pub step_tokens: Histogram,
    /// Time per step.
    pub step_seconds: Histogram,
    steps: Counter,
}

impl Metrics {
    /// All zeros, for a model of this name whose context holds `context` tokens.
    pub fn new(model: &str, context: usize, cache: CacheShape) -> Metrics {
        let lengths = one_two_five(context);
        Metrics {
            model: model.to_owned(),
            cache,
            born: Instant::now(),
            progress_ms: AtomicU64::new(0),
            requests_running: AtomicU64::new(0),
            requests_waiting: AtomicU64::new(0),
            kv_cache_usage: Gauge::default(),
            prefix_cache_queries: Counter::default(),
            prefix_cache_hits: Counter::default(),
            preemptions: Counter::default(),
            admission_rejections: Counter::default(),
            prompt_tokens: Counter::default(),
            generation_tokens: Counter::default(),
            finished_stop: Counter::default(),
            finished_length: Counter::default(),
            aborted: Counter::default(),
            time_to_first_token: Histogram::new(TTFT_EDGES),
            inter_token_latency: Histogram::new(ITL_EDGES),
            request_latency: Histogram::new(REQUEST_EDGES),
            queue_time: Histogram::new(REQUEST_EDGES),
            prefill_time: Histogram::new(REQUEST_EDGES),
            decode_time: Histogram::new(REQUEST_EDGES),
            request_prompt_tokens: Histogram::new(&lengths),
            request_generation_tokens: Histogram::new(&lengths),
            step_tokens: Histogram::new(STEP_TOKENS_EDGES),
            step_seconds: Histogram::new(STEP_EDGES),
            steps: Counter::default(),
        }
    }

    /// Records one engine step, which computed `n_tokens` tokens in `duration`: the heartbeat of `/health`.
    pub fn step(&self, duration: Duration, n_tokens: usize) {
        self.steps.add(1);
        self.step_seconds.observe_seconds(duration);
        self.step_tokens.observe(n_tokens as f64);
        self.progressed();
    }

    /// Steps made so far.
    pub fn n_steps(&self) -> u64 {
        self.steps.get()
    }

    /// How long the engine has had work and made no step; zero when it is idle.
    pub fn stalled_for(&self) -> Duration {
        let n_pending =
            self.requests_running.load(Ordering::Relaxed) + self.requests_waiting.load(Ordering::Relaxed);
        if n_pending == 0 {
            return Duration::ZERO;
        }
        self.born.elapsed().saturating_sub(Duration::from_millis(self.progress_ms.load(Ordering::Relaxed)))
    }

    /// Restarts the clock of [`Metrics::stalled_for`]: after a step, and when work reaches an idle engine.
    pub(crate) fn progressed(&self) {
        self.progress_ms.store(self.born.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// The whole as Prometheus text.
    pub fn render(&self) -> String {
        let mut page = Page { text: String::with_capacity(16 << 10), model: escape(&self.model) };
        // Writing to a string cannot fail.
        let _ = self.write(&mut page);
        page.text
    }

    fn write(&self, page: &mut Page) -> fmt::Result {
        page.gauge("vllm:num_requests_running", "Sequences in the batch", load(&self.requests_running))?;
        page.gauge("vllm:num_requests_waiting", "Requests in the queue", load(&self.requests_waiting))?;
        page.gauge(
            "vllm:kv_cache_usage_perc",
            "Share of KV blocks in use, 0 to 1",
            self.kv_cache_usage.get(),
        )?;
        page.cache_config(self.cache)?;
        page.counter(
            "vllm:prefix_cache_queries_total",
            "Prompt tokens looked up",
            &self.prefix_cache_queries,
        )?;
        page.counter("vllm:prefix_cache_hits_total", "Prompt tokens found cached", &self.prefix_cache_hits)?;
        page.counter("vllm:num_preemptions_total", "Sequences preempted", &self.preemptions)?;
        page.counter("vllm:prompt_tokens_total", "Prompt tokens prefilled", &self.prompt_tokens)?;
        page.counter("vllm:generation_tokens_total", "Tokens produced", &self.generation_tokens)?;
        page.counter(
            "vllm:admission_rejections_total",
            "Requests refused by the full queue",
            &self.admission_rejections,
        )?;
        page.counter("savile_aborted_total", "Requests given up before their end", &self.aborted)?;
        page.counter("savile_steps_total", "Engine steps", &self.steps)?;
        page.finished(&[
            ("stop", &self.finished_stop),
            ("length", &self.finished_length),
            ("abort", &self.aborted),
        ])?;
        page.histogram(
            "vllm:time_to_first_token_seconds",
            "Arrival to first token",
            &self.time_to_first_token,
        )?;
        page.histogram("vllm:inter_token_latency_seconds", "Token to token", &self.inter_token_latency)?;
        page.histogram("vllm:time_per_output_token_seconds", "Its older name", &self.inter_token_latency)?;
        page.histogram("vllm:e2e_request_latency_seconds", "Arrival to last token", &self.request_latency)?;
        page.histogram("vllm:request_queue_time_seconds", "Arrival to scheduled", &self.queue_time)?;
        page.histogram("vllm:request_prefill_time_seconds", "Scheduled to first token", &self.prefill_time)?;
        page.histogram("vllm:request_decode_time_seconds", "First token to last", &self.decode_time)?;
        page.histogram("vllm:request_prompt_tokens", "Prompt length", &self.request_prompt_tokens)?;
        page.histogram("vllm:request_generation_tokens", "Output length", &self.request_generation_tokens)?;
        page.histogram("vllm:iteration_tokens_total", "Tokens per step", &self.step_tokens)?;
        page.histogram("savile_step_seconds", "Time per step", &self.step_seconds)
    }
}

fn load(value: &AtomicU64) -> f64 {
    value.load(Ordering::Relaxed) as f64
}

/// vLLM's edges for lengths: 1, 2, 5, 10, 20, … up to `max`.
fn one_two_five(max: usize) -> Vec<f64> {
    let decades = std::iter::successors(Some(1_usize), |decade| decade.checked_mul(10));
    let edges = decades.flat_map(|decade| [1, 2, 5].map(|mantissa| decade.saturating_mul(mantissa)));
    edges.take_while(|&edge| edge <= max.max(1)).map(|edge| edge as f64).collect()
}

/// Escapes a label value.
fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The text exposition format.
struct Page {
    text: String,
    model: String,
}

impl Page {
    fn head(&mut self, name: &str, help: &str, kind: &str) -> fmt::Result {
        writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}")
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) -> fmt::Result {
        writeln!(self.text, "{name}{{model_name=\"{}\"{labels}}} {value}", self.model)
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.head(name, help, "gauge")?;
        self.sample(name, "", value)
    }

    fn counter(&mut self, name: &str, help: &str, counter: &Counter) -> fmt::Result {
        self.head(name, help, "counter")?;
        self.sample(name, "", counter.get())
    }

    fn cache_config(&mut self, cache: CacheShape) -> fmt::Result {
        let name = "vllm:cache_config_info";
        self.head(name, "Shape of the KV cache", "gauge")?;
        let labels = format!(",block_size=\"{}\",num_gpu_blocks=\"{}\"", cache.block_size, cache.n_blocks);
        self.sample(name, &labels, 1)
    }

    fn finished(&mut self, reasons: &[(&str, &Counter)]) -> fmt::Result {
        let name = "vllm:request_success_total";
        self.head(name, "Requests ended, by reason", "counter")?;
        for (reason, counter) in reasons {
            self.sample(name, &format!(",finished_reason=\"{reason}\""), counter.get())?;
        }
        Ok(())
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) -> fmt::Result {
        self.head(name, help, "histogram")?;
        let bucket = format!("{name}_bucket");
        let mut n_below = 0;
        for (edge, count) in histogram.edges.iter().zip(&histogram.counts) {
            n_below += count.load(Ordering::Relaxed);
            self.sample(&bucket, &format!(",le=\"{edge:?}\""), n_below)?;
        }
        n_below += histogram.counts[histogram.edges.len()].load(Ordering::Relaxed);
        self.sample(&bucket, ",le=\"+Inf\"", n_below)?;
        self.sample(&format!("{name}_sum"), "", f64::from_bits(histogram.sum.load(Ordering::Relaxed)))?;
        self.sample(&format!("{name}_count"), "", n_below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new("a \"model\"", 256, CacheShape { block_size: 16, n_blocks: 40 })
    }

    #[test]
    fn buckets_are_cumulative_and_end_at_the_count() {
        let metrics = metrics();
        for value in [0.001, 0.0011, 3.0, 9999.0] {
            metrics.time_to_first_token.observe(value);
        }
        let page = metrics.render();
        let bucket = |le: &str| {
            format!("vllm:time_to_first_token_seconds_bucket{{model_name=\"a \\\"model\\\"\",le=\"{le}\"}}")
        };
        for (le, count) in [("0.001", 1), ("0.005", 2), ("2.5", 2), ("5.0", 3), ("2560.0", 3), ("+Inf", 4)] {
            assert!(page.contains(&format!("{} {count}\n", bucket(le))), "{le}\n{page}");
        }
        assert!(page.contains("vllm:time_to_first_token_seconds_count{model_name=\"a \\\"model\\\"\"} 4\n"));
    }

    #[test]
    fn length_edges_stop_at_the_context() {
        assert_eq!(one_two_five(256), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0]);
        assert_eq!(one_two_five(0), [1.0]);
        assert!(one_two_five(usize::MAX).len() < 64);
    }

    #[test]
    fn an_idle_engine_is_not_stalled_and_a_step_restarts_the_clock() {
        let metrics = metrics();
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(metrics.stalled_for(), Duration::ZERO);
        metrics.requests_waiting.store(1, Ordering::Relaxed);
        assert!(metrics.stalled_for() >= Duration::from_millis(25));
        metrics.step(Duration::from_millis(1), 3);
        assert!(metrics.stalled_for() < Duration::from_millis(25));
        assert_eq!(metrics.n_steps(), 1);
    }
}
