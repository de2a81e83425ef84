//! A vocabulary and its merges as a server reads them: tables that are looked up where they lie, in a weight image or in
//! memory. Nothing is parsed and nothing is copied, so a server is ready before a file of some megabytes could be read.
//!
//! All numbers are of four bytes. Six of them say how long the parts are, which follow: where the text of each id begins;
//! the ids by the hash of their text; the merges by the hash of their pair; all texts, and the rest of `tokenizer.json`.

use std::ops::Range;

use memmap2::{Mmap, MmapMut};
use std::sync::Arc;

/// Numbers before the first part.
const HEAD: usize = 6;
/// Numbers of a merge: left, right, rank and what they become.
const MERGE: usize = 4;
/// In a slot of a table: nothing.
const EMPTY: u32 = u32::MAX;

/// What tables are made of.
pub struct Vocabulary<'a> {
    /// Ids and their texts.
    pub tokens: &'a [(u32, &'a str)],
    /// Pairs of ids and what they become, the first merges first.
    pub merges: &'a [(u32, u32, u32)],
    /// What else the tokenizer is made of, in JSON.
    pub rest: &'a str,
}

impl Vocabulary<'_> {
    /// The tables, as an image holds them.
    pub fn pack(&self) -> Vec<u8> {
        let n_ids = self.tokens.iter().map(|(id, _)| *id as usize + 1).max().unwrap_or(0);
        let mut texts = vec![""; n_ids];
        self.tokens.iter().for_each(|(id, text)| texts[*id as usize] = text);
        let n_slots = |n: usize| (n * 4 / 3 + 1).next_power_of_two();
        let mut ids = vec![EMPTY; n_slots(self.tokens.len())];
        for (id, text) in self.tokens {
            let slot = probe(hash(text), ids.len()).find(|slot| ids[*slot] == EMPTY);
            ids[slot.expect("a third of the slots is never taken")] = *id;
        }
        let mut merges = vec![[EMPTY; MERGE]; n_slots(self.merges.len())];
        for (rank, (left, right, merged)) in self.merges.iter().enumerate() {
            let is_place = |it: &[u32; MERGE]| it[0] == EMPTY || it[..2] == [*left, *right];
            let slot = probe(hash_pair(*left, *right), merges.len()).find(|slot| is_place(&merges[*slot]));
            // Of two equal pairs the later one counts, as in the library.
            merges[slot.expect("a third of the slots is never taken")] =
                [*left, *right, rank as u32, *merged];
        }
        let text = texts.concat();
        let lens = [n_ids, self.tokens.len(), ids.len(), merges.len(), text.len(), self.rest.len()];
        let begins = texts.iter().scan(0, |at, text| {
            let begin = *at;
            *at += text.len();
            Some(begin)
        });
        let begins = begins.chain([text.len()]).map(|at| at as u32);
        let words =
            lens.map(|len| len as u32).into_iter().chain(begins).chain(ids).chain(merges.into_flattened());
        let mut bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        bytes.extend(text.bytes().chain(self.rest.bytes()));
        bytes
    }
}

/// Tables in a map.
#[derive(Clone)]
pub struct Tables {
    map: Arc<Mmap>,
    /// Where each part lies in it, in bytes.
    begins: Range<usize>,
    ids: Range<usize>,
    merges: Range<usize>,
    text: Range<usize>,
    rest: Range<usize>,
    n_tokens: usize,
}

impl Tables {
    /// The tables that lie at `bytes` of a map; nothing where they are not whole.
    pub fn of_map(map: Arc<Mmap>, bytes: Range<usize>) -> Option<Tables> {
        let words = |range: Range<usize>| bytemuck::try_cast_slice::<u8, u32>(map.get(range)?).ok();
        let head = words(bytes.start..bytes.start.checked_add(4 * HEAD)?)?;
        let [n_ids, n_tokens, n_slots, n_merges, n_text, n_rest] =
            [0, 1, 2, 3, 4, 5].map(|at| head[at] as usize);
        let mut at = bytes.start + 4 * HEAD;
        let mut part = |len: usize| {
            at += len;
            at - len..at
        };
        let (begins, ids) = (part(4 * (n_ids + 1)), part(4 * n_slots));
        let (merges, text, rest) = (part(4 * MERGE * n_merges), part(n_text), part(n_rest));
        // Of powers of two a hash takes its bits, and every text lies in the text.
        let is_sound = at == bytes.end
            && n_slots.is_power_of_two()
            && n_merges.is_power_of_two()
            && words(begins.clone())?.is_sorted()
            && words(begins.clone())?.last().is_some_and(|last| *last as usize == n_text)
            && std::str::from_utf8(map.get(text.start..rest.end)?).is_ok();
        is_sound.then_some(Tables { map, begins, ids, merges, text, rest, n_tokens })
    }

    /// The same in memory.
    pub fn of_bytes(bytes: &[u8]) -> Option<Tables> {
        let mut map = MmapMut::map_anon(bytes.len()).ok()?;
        map.copy_from_slice(bytes);
        Tables::of_map(Arc::new(map.make_read_only().ok()?), 0..bytes.len())
    }

    /// How many ids have a text.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// One more than the largest id.
    pub fn n_ids(&self) -> usize {
        self.begins.len() / 4 - 1
    }

    /// What else the tokenizer is made of, in JSON.
    pub fn rest(&self) -> &[u8] {
        &self.map[self.rest.clone()]
    }

    /// The text of an id; `None` where it has none.
    pub fn text(&self, id: u32) -> Option<&str> {
        let begins = self.words(&self.begins);
        let (begin, end) = (*begins.get(id as usize)?, *begins.get(id as usize + 1)?);
        let text = self.map[self.text.clone()].get(begin as usize..end as usize)?;
        std::str::from_utf8(text).ok().filter(|text| !text.is_empty())
    }

    /// The id of a text.
    pub fn id(&self, text: &str) -> Option<u32> {
        let ids = self.words(&self.ids);
        let found = probe(hash(text), ids.len()).map(|slot| ids[slot]);
        found.take_while(|id| *id != EMPTY).find(|id| self.text(*id) == Some(text))
    }

    /// When two ids next to each other are merged, the lowest rank first, and the id that they become.
    pub fn merge(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let merges = self.words(&self.merges).as_chunks::<MERGE>().0;
        let found = probe(hash_pair(left, right), merges.len()).map(|slot| merges[slot]);
        let mut found = found.take_while(|merge| merge[0] != EMPTY);
        found.find(|merge| merge[..2] == [left, right]).map(|[_, _, rank, merged]| (rank, merged))
    }

    fn words(&self, part: &Range<usize>) -> &[u32] {
        bytemuck::cast_slice(&self.map[part.clone()])
    }
}

/// The slots in which something of this hash may be, the likeliest first.
fn probe(hash: u64, n_slots: usize) -> impl Iterator<Item = usize> {
    let first = (hash >> 32) as usize;
    (0..n_slots).map(move |step| (first + step) & (n_slots - 1))
}

/// FNV-1a, its bits spread by the golden ratio.
fn hash(text: &str) -> u64 {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    spread(text.bytes().fold(0xcbf2_9ce4_8422_2325, fnv))
}

fn hash_pair(left: u32, right: u32) -> u64 {
    spread(u64::from(left) << 32 | u64::from(right))
}

fn spread(bits: u64) -> u64 {
    (bits ^ bits >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
