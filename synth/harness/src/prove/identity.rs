//! Whether what runs is what was planned: the digests that the server states, and the bytes on disk.

use serde_json::Value;

use super::proof::{Check, Surface};
use super::subject::{Subject, get};
use crate::build::Artifact;
use crate::image;

/// `/version` names what the artifact was made from, and the bytes of the image it serves hash to what its header says.
///
/// A flipped bit of a weight may change no answer of a proof; here it changes the hash.
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
    check.expect("weights", image::is_whole(&artifact.weights), || {
        format!("{} does not hold the bytes that its header names", artifact.weights.display())
    });
    check.done()
}
