//! The header of one safetensors file: what it lists, checked against the size of the file. No weight is read.

use std::fmt;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::keys::{fault, open};
use super::{Dtype, ModelError, ShardFile, TensorFact};

/// Longest header, bytes; the format's own bound.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Most tensors in one file.
const MAX_TENSORS: usize = 1 << 17;
/// Most sizes of one tensor.
const MAX_RANK: usize = 8;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Tensors in the order of the header.
struct RawHeader(Vec<(String, RawTensor)>);

/// Reads the header of `folder/name`.
///
/// Errors: a truncated file, a header that is no JSON, and every tensor whose place, shape and format disagree.
pub(super) fn read(folder: &Path, name: &str) -> Result<ShardFile, Vec<ModelError>> {
    let file = folder.join(name);
    let (header, data_start, n_bytes) = header(&file).map_err(|error| vec![error])?;
    let mut errors = Vec::new();
    let mut tensors = Vec::with_capacity(header.0.len());
    for (tensor, raw) in header.0 {
        match fact(&tensor, &raw, data_start, n_bytes) {
            Ok(fact) => tensors.push(fact),
            Err(message) => errors.push(ModelError { file: file.clone(), key: printable(&tensor), message }),
        }
    }
    // A place that is wrong already makes gaps; they would only repeat it.
    if errors.is_empty() {
        tensors.sort_by_key(|tensor| (tensor.begin, tensor.end));
        errors.extend(gaps(&file, &tensors, data_start, n_bytes));
    }
    if errors.is_empty() {
        Ok(ShardFile { name: name.to_owned(), bytes: n_bytes, tensors })
    } else {
        Err(errors)
    }
}

/// The header, where the data starts and where the file ends.
fn header(file: &Path) -> Result<(RawHeader, u64, u64), ModelError> {
    let (mut opened, n_bytes) = open(file)?;
    let mut prefix = [0; 8];
    opened.read_exact(&mut prefix).map_err(|_| {
        fault(file, format!("truncated: {n_bytes} bytes hold no header; fetch the file again"))
    })?;
    let n_header = u64::from_le_bytes(prefix);
    if n_header > MAX_HEADER_BYTES {
        return Err(fault(
            file,
            format!("the header says it has {n_header} bytes, more than the format's {MAX_HEADER_BYTES}"),
        ));
    }
    if n_header > n_bytes.saturating_sub(8) {
        return Err(fault(
            file,
            format!("truncated: the header has {n_header} bytes, the file {n_bytes}; fetch the file again"),
        ));
    }
    let mut bytes = vec![0; n_header as usize];
    opened
        .read_exact(&mut bytes)
        .map_err(|error| fault(file, format!("the header cannot be read: {error}")))?;
    let header = serde_json::from_slice(&bytes)
        .map_err(|error| fault(file, format!("the header is not as the format says: {error}")))?;
    Ok((header, 8 + n_header, n_bytes))
}

/// One tensor, if its sizes, its number format and its place agree.
fn fact(name: &str, raw: &RawTensor, data_start: u64, n_bytes: u64) -> Result<TensorFact, String> {
    let dtype = match raw.dtype.as_str() {
        "F32" => Dtype::F32,
        "F16" => Dtype::F16,
        "BF16" => Dtype::Bf16,
        other => {
            return Err(format!(
                "number format {} is not in the catalogue, which has F32, F16 and BF16",
                printable(other)
            ));
        }
    };
    if raw.shape.len() > MAX_RANK {
        return Err(format!("expected at most {MAX_RANK} sizes, found {}", raw.shape.len()));
    }
    let size = raw.shape.iter().try_fold(dtype.bytes(), |size, extent| size.checked_mul(*extent));
    let size = size.ok_or_else(|| format!("shape {:?} overflows", raw.shape))?;
    let (begin, end) = raw.data_offsets;
    let place = data_start.checked_add(begin).zip(data_start.checked_add(end));
    match place {
        Some((begin, end)) if begin <= end && end <= n_bytes && end - begin == size => {
            let shape = raw.shape.iter().map(|extent| usize::try_from(*extent)).collect::<Result<_, _>>();
            let shape = shape.map_err(|error| error.to_string())?;
            Ok(TensorFact { name: name.to_owned(), dtype, shape, begin, end })
        }
        Some((begin, end)) if begin <= end && end - begin != size => Err(format!(
            "shape {:?} in {} takes {size} bytes, data_offsets give {}",
            raw.shape,
            dtype.name(),
            end - begin
        )),
        Some((_, end)) if end > n_bytes => {
            Err(format!("ends at byte {end} of a file of {n_bytes}; fetch the file again"))
        }
        _ => Err(format!("data_offsets [{begin}, {end}] are no range")),
    }
}

/// Overlaps and gaps: data follows data from the end of the header to the end of the file.
fn gaps(file: &Path, tensors: &[TensorFact], data_start: u64, n_bytes: u64) -> Option<ModelError> {
    let mut expected = data_start;
    for tensor in tensors {
        if tensor.begin != expected {
            let how = if tensor.begin < expected {
                "overlaps the data before it"
            } else {
                "leaves a gap before it"
            };
            let message = format!("{how}: expected byte {expected}, found {}", tensor.begin);
            return Some(ModelError { file: file.to_owned(), key: printable(&tensor.name), message });
        }
        expected = tensor.end;
    }
    let message = format!("expected {expected} bytes, found {n_bytes}; fetch the file again");
    (expected != n_bytes).then(|| fault(file, message))
}

/// A name from a file, cut and escaped for a message.
pub(super) fn printable(name: &str) -> String {
    name.chars().take(120).collect::<String>().escape_debug().collect()
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawHeader, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from tensors to their dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut tensors = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("{} is listed twice", printable(&name))));
            }
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if tensors.len() == MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            tensors.push((name, map.next_value()?));
        }
        Ok(RawHeader(tensors))
    }
}
