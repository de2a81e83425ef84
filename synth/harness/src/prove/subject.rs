//! The server under proof: what it says of itself, and how it is asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use synth::model::Model;
use synth::workload::{Api, Message, Workload};

use super::ask::{Ask, Fault, cut, read_ids};
use crate::client::Client;

/// Likeliest tokens asked for with each position; the most that OpenAI's completions give.
const N_TOP: usize = 5;

/// How long one answer may take; a model of real size reads a long prompt for minutes on two cores.
const PATIENCE: Duration = Duration::from_secs(600);

/// The server under proof, and the limits it was built for.
pub(super) struct Subject {
    pub(super) client: Arc<Client>,
    /// The name it gives its model.
    model: String,
    pub(super) has_completions: bool,
    pub(super) has_chat: bool,
    /// Positions per KV block, by its own metrics.
    pub(super) block: usize,
    /// KV blocks, by its own metrics.
    pub(super) n_blocks: usize,
    pub(super) vocab: usize,
    pub(super) concurrency: usize,
    pub(super) prompt_max: usize,
    pub(super) output_max: usize,
}

impl Subject {
    /// Asks the operational routes for what the proof needs to know.
    pub(super) async fn meet(addr: SocketAddr, workload: &Workload, model: &Model) -> Result<Subject, Fault> {
        let client = Arc::new(Client::new(addr).timeout(PATIENCE));
        let models = get(&client, "/v1/models").await?;
        let name = models
            .pointer("/data/0/id")
            .and_then(Value::as_str)
            .ok_or("/v1/models names no model")?
            .to_owned();
        let metrics = get(&client, "/metrics").await?;
        let metrics = metrics.as_str().ok_or("/metrics is not text")?;
        let cache = |label| label_value(metrics, "vllm:cache_config_info", label).filter(|count| *count > 0);
        let has = |api| workload.api.contains(&api);
        Ok(Subject {
            model: name,
            has_completions: has(Api::Completions),
            has_chat: has(Api::Chat) && model.chat_template.is_some(),
            block: cache("block_size").ok_or("/metrics does not give cache_config_info a block_size")?,
            n_blocks: cache("num_gpu_blocks")
                .ok_or("/metrics does not give cache_config_info num_gpu_blocks")?,
            vocab: model.dims.vocab,
            concurrency: workload.traffic.concurrency,
            prompt_max: workload.traffic.prompt.max,
            output_max: workload.traffic.output.max,
            client,
        })
    }

    /// Greedy completion of ids: `n` tokens, whatever they are, with log-probabilities and ids.
    pub(super) fn completion(&self, prompt: &[u32], n: usize) -> Ask {
        let body = json!({ "model": self.model, "prompt": prompt, "logprobs": N_TOP });
        Ask { route: "/v1/completions", body }.with(self.greedy(n))
    }

    /// Greedy answer to a conversation: `n` tokens, whatever they are, with log-probabilities and ids.
    pub(super) fn chat(&self, messages: &Value, n: usize) -> Ask {
        let body =
            json!({ "model": self.model, "messages": messages, "logprobs": true, "top_logprobs": N_TOP });
        Ask { route: "/v1/chat/completions", body }.with(self.greedy(n))
    }

    /// Everything that bends the odds is said, whatever the server's defaults are.
    fn greedy(&self, n: usize) -> Value {
        json!({ "temperature": 0, "top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1, "max_tokens": n, "ignore_eos": true, "return_token_ids": true,
            "return_tokens_as_token_ids": true })
    }

    /// `/tokenize` with this body: the ids.
    pub(super) async fn tokenize(&self, body: Value) -> Result<Vec<u32>, Fault> {
        let reply = post(&self.client, "/tokenize", &body).await?;
        let ids = reply
            .get("tokens")
            .and_then(read_ids)
            .ok_or_else(|| format!("/tokenize answered {}", cut(&reply.to_string())))?;
        match reply.get("count").and_then(Value::as_u64) {
            Some(count) if count as usize == ids.len() => Ok(ids),
            count => Err(format!("/tokenize counts {count:?} and gives {} ids", ids.len())),
        }
    }

    /// `/detokenize` of ids: the text.
    pub(super) async fn detokenize(&self, ids: &[u32]) -> Result<String, Fault> {
        let reply = post(&self.client, "/detokenize", &json!({ "tokens": ids })).await?;
        let text = reply.get("prompt").and_then(Value::as_str);
        text.map(str::to_owned).ok_or_else(|| format!("/detokenize answered {}", cut(&reply.to_string())))
    }

    /// The sum of a metric over its labels.
    pub(super) async fn metric(&self, name: &str) -> Result<f64, Fault> {
        let text = get(&self.client, "/metrics").await?;
        let values = text.as_str().unwrap_or("").lines().filter_map(|line| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
            rest.rsplit(' ').next()?.parse::<f64>().ok()
        });
        values.reduce(|a, b| a + b).ok_or_else(|| format!("/metrics has no {name}"))
    }
}

/// Messages as the wire has them.
pub(super) fn messages_value(messages: &[Message]) -> Value {
    messages.iter().map(|message| json!({ "role": message.role, "content": message.content })).collect()
}

/// A body from a route that must answer.
pub(super) async fn get(client: &Client, path: &str) -> Result<Value, Fault> {
    let reply = client.get(path).await.map_err(|error| error.to_string())?;
    if reply.status.is_success() { Ok(reply.body) } else { Err(format!("{path}: status {}", reply.status)) }
}

async fn post(client: &Client, path: &str, body: &Value) -> Result<Value, Fault> {
    let reply = client.post(path, body).await.map_err(|error| error.to_string())?;
    if reply.status.is_success() {
        Ok(reply.body)
    } else {
        Err(format!("{path}: status {}: {}", reply.status, cut(&reply.body.to_string())))
    }
}

/// A whole number that a metric carries as a label: `name{..,label="16",..} 1`.
fn label_value(metrics: &str, name: &str, label: &str) -> Option<usize> {
    let line = metrics.lines().find(|line| line.starts_with(name))?;
    let (_, rest) = line.split_once(&format!("{label}=\""))?;
    rest.split_once('"')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::label_value;

    #[test]
    fn labels_are_read_wherever_they_stand() {
        let metrics =
            "# HELP x\nvllm:cache_config_info{model_name=\"m\",block_size=\"16\",num_gpu_blocks=\"640\"} 1\n";
        assert_eq!(label_value(metrics, "vllm:cache_config_info", "block_size"), Some(16));
        assert_eq!(label_value(metrics, "vllm:cache_config_info", "num_gpu_blocks"), Some(640));
        assert_eq!(label_value(metrics, "vllm:cache_config_info", "absent"), None);
    }
}
