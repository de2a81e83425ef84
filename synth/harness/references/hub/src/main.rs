//! Fetches one model folder from the Hugging Face hub and prints where it is.
//!
//! `hub-fetch REPO REVISION`: progress and errors go to stderr, one line each; stdout is the folder, and nothing else.
//! Files already in the user's hub cache are not fetched again; a token in the usual places is used.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use hf_hub::api::sync::ApiBuilder;
use hf_hub::{Repo, RepoType};

/// Files of a model folder that are read, beside the weights.
const WANTED: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [repo, revision] = words.as_slice() else {
        eprintln!("usage: hub-fetch REPO REVISION");
        return ExitCode::from(2);
    };
    match fetch(repo, revision) {
        Ok(folder) => {
            println!("{}", folder.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}", format!("{error:#}").replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

/// The folder that holds every wanted file of the revision.
fn fetch(name: &str, revision: &str) -> Result<PathBuf> {
    let api =
        ApiBuilder::from_env().with_progress(false).build().context("cannot set up the hub's client")?;
    let repo = api.repo(Repo::with_revision(name.to_owned(), RepoType::Model, revision.to_owned()));
    let info = repo.info().with_context(|| format!("cannot ask the hub about {name} at {revision}"))?;
    let files: Vec<String> =
        info.siblings.into_iter().map(|file| file.rfilename).filter(|file| is_wanted(file)).collect();
    if !files.iter().any(|file| file == "config.json") {
        bail!("{name} at {revision} has no config.json");
    }
    if !files.iter().any(|file| file.ends_with(".safetensors")) {
        bail!("{name} at {revision} has no safetensors weights");
    }
    let mut folder = PathBuf::new();
    for (idx, file) in files.iter().enumerate() {
        eprintln!("fetching {file} ({} of {})", idx + 1, files.len());
        let path = repo.get(file).with_context(|| format!("cannot fetch {file} of {name}"))?;
        path.parent().context("the cache gave a file without a folder")?.clone_into(&mut folder);
    }
    Ok(folder)
}

/// Files at the top of the repository that a folder on disk would be read for.
fn is_wanted(file: &str) -> bool {
    WANTED.contains(&file) || (file.ends_with(".safetensors") && !file.contains('/'))
}
