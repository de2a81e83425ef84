//! What HF transformers says about the model, where that was recorded: tokenizer, chat template, greedy tokens.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};
use synth::workload::Tolerance;

use super::Exam;
use super::ProveError;
use super::ask::{Fault, ids_difference};
use super::proof::{Check, Surface};
use super::truth::TIE;

/// Largest |Δlogprob| to the recorded values, nats: they have six digits, and two f32 computations differ.
const LOGPROB: f64 = 1e-3;

/// A golden file, as `tests/fixtures/recipe/golden.py` writes it.
#[derive(Deserialize)]
pub(super) struct Golden {
    texts: Vec<Text>,
    chats: Vec<Chat>,
    greedy: Vec<Greedy>,
    logprobs: Vec<Scored>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    add_special_tokens: bool,
    ids: Vec<u32>,
    decoded: String,
}

#[derive(Deserialize)]
struct Chat {
    messages: Value,
    add_generation_prompt: bool,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Greedy {
    prompt: Vec<u32>,
    ids: Vec<u32>,
    gap: f32,
}

#[derive(Deserialize)]
struct Scored {
    ids: Vec<u32>,
    logprobs: Vec<f64>,
}

impl Golden {
    pub(super) fn read(path: &Path) -> Result<Golden, ProveError> {
        let fail = |reason: String| ProveError::Golden { path: path.to_owned(), reason };
        let text = fs::read(path).map_err(|error| fail(error.to_string()))?;
        serde_json::from_slice(&text).map_err(|error| fail(error.to_string()))
    }

    /// Every surface that the file has rows for and the server has routes for.
    pub(super) async fn surfaces(&self, exam: &Exam, tolerance: Tolerance) -> Vec<Surface> {
        let mut surfaces = vec![self.tokenizer(exam).await];
        if exam.subject.has_chat && !self.chats.is_empty() {
            surfaces.push(self.chat(exam).await);
        }
        if exam.subject.has_completions && tolerance == Tolerance::Exact {
            surfaces.push(self.numbers(exam).await);
        }
        surfaces
    }

    async fn tokenizer(&self, exam: &Exam) -> Surface {
        let mut check = Check::new("tokenizer", "ids and texts are those of the HF tokenizer");
        for row in &self.texts {
            let name = format!("{:.40?}", row.text);
            let body = json!({ "prompt": row.text, "add_special_tokens": row.add_special_tokens });
            let got = exam.subject.tokenize(body).await;
            check.case(&name, got.map_or_else(Some, |got| ids_difference(&row.ids, &got)));
            if exam.subject.has_completions && (1..=exam.subject.prompt_max).contains(&row.ids.len()) {
                let failure = match echoed(exam, &row.ids).await {
                    Ok(got) => {
                        (got != row.decoded).then(|| format!("is {got:?}, expected {:?}", row.decoded))
                    }
                    Err(fault) => Some(fault),
                };
                check.case(&format!("{name} decoded"), failure);
            }
        }
        check.done()
    }

    async fn chat(&self, exam: &Exam) -> Surface {
        let mut check = Check::new("chat_template", "a conversation has the ids of the HF chat template");
        for (idx, row) in self.chats.iter().enumerate() {
            let name = format!("conversation {}, generation prompt {}", idx + 1, row.add_generation_prompt);
            let body =
                json!({ "messages": row.messages, "add_generation_prompt": row.add_generation_prompt });
            let got = exam.subject.tokenize(body).await;
            check.case(&name, got.map_or_else(Some, |got| ids_difference(&row.ids, &got)));
            if row.add_generation_prompt && row.ids.len() <= exam.subject.prompt_max {
                let answer = exam.subject.chat(&row.messages, 1).send(&exam.subject.client).await;
                let failure = match answer {
                    Ok(answer) => {
                        let got = answer.choices[0].prompt_token_ids.clone().unwrap_or_default();
                        ids_difference(&row.ids, &got)
                    }
                    Err(fault) => Some(fault),
                };
                check.case(&format!("{name}, answered"), failure);
            }
        }
        check.done()
    }

    async fn numbers(&self, exam: &Exam) -> Surface {
        let mut check =
            Check::new("golden", "greedy tokens and log-probabilities are those of HF transformers");
        let fits = |n_prompt, n| n_prompt <= exam.subject.prompt_max && n <= exam.subject.output_max;
        for (idx, row) in
            self.greedy.iter().enumerate().filter(|(_, row)| fits(row.prompt.len(), row.ids.len()))
        {
            let answer = exam.subject.completion(&row.prompt, row.ids.len()).send(&exam.subject.client).await;
            let failure = match answer {
                Ok(answer) => {
                    ids_difference(&row.ids, &answer.choices[0].token_ids).filter(|_| row.gap >= TIE)
                }
                Err(fault) => Some(fault),
            };
            check.case(&format!("greedy {}", idx + 1), failure);
        }
        for (idx, row) in self.logprobs.iter().enumerate().filter(|(_, row)| fits(row.ids.len(), 1)) {
            let answer = exam
                .subject
                .completion(&row.ids, 1)
                .with(json!({ "echo": true }))
                .send(&exam.subject.client)
                .await;
            let failure = match answer {
                Err(fault) => Some(fault),
                Ok(answer) => {
                    let positions =
                        answer.choices[0].positions.iter().skip(1).map(|position| position.logprob);
                    let got: Vec<f64> =
                        positions.take(row.logprobs.len()).map(|it| it.unwrap_or(f64::NAN)).collect();
                    let is_near = |(got, expected): (&f64, &f64)| (got - expected).abs() <= LOGPROB;
                    let near = got.len() == row.logprobs.len() && got.iter().zip(&row.logprobs).all(is_near);
                    (!near).then(|| format!("log-probabilities {got:.4?}, expected {:.4?}", row.logprobs))
                }
            };
            check.case(&format!("scored {}", idx + 1), failure);
        }
        check.done()
    }
}

/// The text of ids as an answer has it, without special tokens: a prompt that is echoed and not continued.
/// `/detokenize` spells special tokens out, as vLLM's does.
async fn echoed(exam: &Exam, ids: &[u32]) -> Result<String, Fault> {
    let ask = exam.subject.completion(ids, 0).with(json!({ "echo": true }));
    let answer = ask.send(&exam.subject.client).await?;
    Ok(answer.choices[0].text.clone())
}
