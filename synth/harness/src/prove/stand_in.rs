//! A server for tests that answers with the oracle itself, and with one fault where a test asks for it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use oracle::{Oracle, argmax, log_softmax};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::build::Artifact;
use crate::random::Random;

/// Positions of the blocks it pretends to have.
const BLOCK: usize = 4;

/// What the stand-in does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    Nothing,
    /// Answers with the prompt.
    Echoes,
    /// Answers everything alike.
    Canned,
    /// Reports slightly wrong log-probabilities.
    Imprecise,
    /// Answers differently while others run.
    Batched,
    /// Finds blocks in the cache whatever stood before them.
    StalePrefix,
    /// Draws each token of a sequence with the same random number.
    OneDraw,
    /// Counts one token too few.
    Miscounts,
    /// Loses a token of each stream.
    Leaks,
    /// Goes on after a stop token.
    Unstoppable,
    /// States another plan.
    Impostor,
    /// Preempts.
    Preempts,
}

pub(super) struct StandIn {
    oracle: Oracle,
    artifact: Artifact,
    flaw: Flaw,
    /// Prompts answered so far, for its cache.
    known: Mutex<Vec<Vec<u32>>>,
    n_running: AtomicUsize,
    n_queries: AtomicUsize,
}

impl StandIn {
    /// Starts it on a free port; it ends with the runtime of the test.
    pub(super) async fn start(artifact: &Artifact, folder: &Path, flaw: Flaw) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let server = Arc::new(StandIn {
            oracle: Oracle::open(folder).expect("the model opens"),
            artifact: artifact.clone(),
            flaw,
            known: Mutex::default(),
            n_running: AtomicUsize::new(0),
            n_queries: AtomicUsize::new(0),
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&server).serve(stream));
            }
        });
        addr
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let (mut path, mut length, mut line) = (String::new(), 0, String::new());
            while stream.read_line(&mut line).await? > 2 {
                if path.is_empty() {
                    path = line.split(' ').nth(1).unwrap_or("").to_owned();
                } else if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap_or(0);
                }
                line.clear();
            }
            if path.is_empty() {
                return Ok(());
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await?;
            let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let server = Arc::clone(&self);
            let reply = tokio::task::spawn_blocking(move || server.answer(&path, &body)).await?;
            let kind = if reply.starts_with("data:") {
                "text/event-stream"
            } else if reply.starts_with('{') {
                "application/json"
            } else {
                "text/plain"
            };
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", reply.len());
            stream.write_all((head + &reply).as_bytes()).await?;
            stream.flush().await?;
        }
    }

    fn answer(&self, path: &str, body: &Value) -> String {
        match path {
            "/health" => "{}".to_owned(),
            "/v1/models" => json!({ "data": [{ "id": "stand-in" }] }).to_string(),
            "/metrics" => format!(
                "vllm:cache_config_info{{block_size=\"{BLOCK}\",num_gpu_blocks=\"64\"}} 1\n\
                 vllm:num_preemptions_total{{}} {}\nvllm:prefix_cache_queries_total {}\n",
                u8::from(self.flaw == Flaw::Preempts),
                self.n_queries.load(Ordering::Relaxed)
            ),
            "/version" => json!({ "name": self.artifact.name, "spec_digest": self.artifact.spec_digest,
                "plan_digest": if self.flaw == Flaw::Impostor { "another" } else { &self.artifact.plan_digest },
                "weights_digest": self.artifact.weights_digest }).to_string(),
            "/v1/completions" => self.complete(body),
            other => panic!("the proof asks for {other}"),
        }
    }

    fn complete(&self, body: &Value) -> String {
        let mut has_company = self.n_running.fetch_add(1, Ordering::SeqCst) > 0;
        if self.flaw == Flaw::Batched {
            // Answers take less than a millisecond: those that are asked for at once would still not meet.
            let patience = Instant::now() + Duration::from_millis(30);
            while !has_company && Instant::now() < patience {
                thread::sleep(Duration::from_millis(1));
                has_company = self.n_running.load(Ordering::SeqCst) > 1;
            }
        }
        let prompt: Vec<u32> = body["prompt"]
            .as_array()
            .expect("ids")
            .iter()
            .map(|id| id.as_u64().expect("an id") as u32)
            .collect();
        let is_echo = body["echo"] == true;
        let (n_cached, context) = if is_echo { (0, prompt.clone()) } else { self.look_up(&prompt) };
        let n = body["n"].as_u64().unwrap_or(1);
        let mut choices: Vec<Value> = (0..n).map(|idx| self.choice(body, idx, &prompt, &context)).collect();
        if self.flaw == Flaw::Batched && has_company {
            choices.iter_mut().for_each(|choice| choice["text"] = json!("in company"));
        }
        let n_tokens: usize =
            choices.iter().map(|choice| choice["token_ids"].as_array().map_or(0, Vec::len)).sum();
        let n_tokens = n_tokens - usize::from(self.flaw == Flaw::Miscounts);
        let usage = json!({ "prompt_tokens": prompt.len(), "completion_tokens": n_tokens,
            "total_tokens": prompt.len() + n_tokens, "prompt_tokens_details": { "cached_tokens": n_cached } });
        self.n_running.fetch_sub(1, Ordering::SeqCst);
        if body["stream"] != true {
            return json!({ "choices": choices, "usage": usage }).to_string();
        }
        if self.flaw == Flaw::Leaks {
            choices[0]["token_ids"].as_array_mut().expect("ids").pop();
        }
        let event = |data: Value| format!("data: {data}\n\n");
        event(json!({ "choices": choices, "usage": null }))
            + &event(json!({ "choices": [], "usage": usage }))
            + "data: [DONE]\n\n"
    }

    /// How many tokens are cached, and the context that they stand for.
    fn look_up(&self, prompt: &[u32]) -> (usize, Vec<u32>) {
        self.n_queries.fetch_add(prompt.len(), Ordering::Relaxed);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let blocks = |ids: &[u32]| ids[..ids.len() - 1].as_chunks::<BLOCK>().0.to_vec();
        let mut context = prompt.to_vec();
        let mut n_cached = 0;
        for (idx, block) in blocks(prompt).iter().enumerate() {
            let at = idx * BLOCK;
            let is_hit = |other: &&Vec<u32>| match self.flaw {
                // Forgets to compare what stood before, and all but the ends of a block.
                Flaw::StalePrefix => blocks(other)
                    .get(idx)
                    .is_some_and(|it| it[0] == block[0] && it[BLOCK - 1] == block[BLOCK - 1]),
                _ => other.get(..at + BLOCK).is_some_and(|it| it == &prompt[..at + BLOCK]),
            };
            let Some(hit) = known.iter().find(is_hit) else { break };
            context[at..at + BLOCK].copy_from_slice(&hit[at..at + BLOCK]);
            n_cached = at + BLOCK;
        }
        known.push(prompt.to_vec());
        (n_cached, context)
    }

    fn choice(&self, body: &Value, idx: u64, prompt: &[u32], context: &[u32]) -> Value {
        let max_tokens = body["max_tokens"].as_u64().expect("a length") as usize;
        let stops: Vec<u64> = body["stop_token_ids"]
            .as_array()
            .map_or(Vec::new(), |ids| ids.iter().filter_map(Value::as_u64).collect());
        let mut session = self.oracle.session();
        let mut rows: Vec<Vec<f32>> =
            session.extend(context).expect("in vocabulary").iter().map(|row| log_softmax(row)).collect();
        let mut tokens = Vec::new();
        let mut reason = "length";
        while tokens.len() < max_tokens {
            if let Some(token) = tokens.last() {
                rows.push(log_softmax(&session.push(*token).expect("in vocabulary")));
            }
            let row = &rows[rows.len() - 1];
            let token = match self.flaw {
                Flaw::Echoes => prompt[tokens.len() % prompt.len()],
                Flaw::Canned => 40 + tokens.len() as u32,
                _ if body["logit_bias"].is_object() => 1,
                _ => self.pick(body, idx, tokens.len() as u64, row),
            };
            tokens.push(token);
            if stops.contains(&u64::from(token)) && self.flaw != Flaw::Unstoppable {
                reason = "stop";
                break;
            }
        }
        let first = if body["echo"] == true { 0 } else { prompt.len() };
        let shown = [prompt, &tokens].concat();
        let slip = if self.flaw == Flaw::Imprecise { 0.01 } else { 0.0 };
        let name = |token: u32| format!("token_id:{token}");
        let logprob = |at: usize, token: u32| f64::from(rows[at - 1][token as usize]) + slip;
        let tops = |at: usize| {
            let mut rest = rows[at - 1].clone();
            let mut next = || {
                let best = argmax(&rest);
                rest[best as usize] = f32::NEG_INFINITY;
                best
            };
            let best: Vec<u32> = (0..5).map(|_| next()).collect();
            Value::Object(best.iter().map(|token| (name(*token), json!(logprob(at, *token)))).collect())
        };
        let at = first..shown.len();
        json!({
            "index": idx, "text": format!("{:?}", &shown[first..]), "finish_reason": reason,
            "token_ids": tokens, "prompt_token_ids": prompt,
            "logprobs": {
                "tokens": at.clone().map(|at| name(shown[at])).collect::<Vec<_>>(),
                "token_logprobs": at.clone().map(|at| if at == 0 { Value::Null } else { json!(logprob(at, shown[at])) }).collect::<Vec<_>>(),
                "top_logprobs": at.map(|at| if at == 0 { Value::Null } else { tops(at) }).collect::<Vec<_>>(),
            },
        })
    }

    /// Greedy, or one of the two likeliest by the seed's random number.
    fn pick(&self, body: &Value, choice: u64, position: u64, row: &[f32]) -> u32 {
        let best = argmax(row);
        let temperature = body["temperature"].as_f64().unwrap_or(1.0);
        if temperature == 0.0 {
            return best;
        }
        let mut others = row.to_vec();
        others[best as usize] = f32::NEG_INFINITY;
        let second = argmax(&others);
        let gap = f64::from(row[best as usize] - row[second as usize]);
        let position = if self.flaw == Flaw::OneDraw { 0 } else { position };
        let seed = body["seed"].as_u64().expect("a seed");
        let point = Random::new(seed << 32 | choice << 16 | position).uniform();
        if point < 1.0 / (1.0 + (-gap / temperature).exp()) { best } else { second }
    }
}
