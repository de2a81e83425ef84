//! Whether what runs is what was planned: the digests that the server states, and the bytes on disk.

use serde_json::Value;
use synth::model::Model;

use super::proof::{Check, Surface};
use super::subject::{Subject, get};
use crate::build::Artifact;

/// `/version` names what the artifact was made from, and the served weight files still hash to it.
///
/// A flipped bit of a weight may change no answer of a proof; here it changes the digest.
pub(super) async fn identity(subject: &Subject, artifact: &Artifact) -> Surface {
    let mut check =
        Check::new("identity", "the server is made of the spec, the plan and the weights it says");
    let version = get(&subject.client, "/version").await.unwrap_or_else(Value::String);
    let stated = [
        ("name", &artifact.name),
        ("spec_digest", &artifact.spec_digest),
        ("plan_digest", &artifact.plan_digest),
        ("weights_digest", &artifact.weights_digest),
    ];
    for (key, expected) in stated {
        let got = version.get(key).and_then(Value::as_str);
        check.expect(key, got == Some(expected), || format!("/version says {got:?}, expected {expected}"));
    }
    // Read anew: the model that was planned for remembers its digest.
    let on_disk = Model::read(&artifact.model_dir).and_then(|served| Ok(served.digests()?.weights.clone()));
    check.case(
        "weights",
        match on_disk {
            Ok(digest) if digest == artifact.weights_digest => None,
            Ok(digest) => {
                Some(format!("the files hash to {digest}, planned for {}", artifact.weights_digest))
            }
            Err(errors) => Some(errors.to_string()),
        },
    );
    check.done()
}
