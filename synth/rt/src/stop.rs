//! Stop strings in streamed text: hold back what may be the start of one, cut at the first that is whole.

/// Looks for stop strings in a text that comes in pieces.
///
/// The rule does not depend on how the text is cut into pieces: the stop string that ends first wins, the
/// longest among those that end together; the text before it is the answer.
pub struct StopFinder {
    stops: Vec<String>,
    /// Text that was not released: the start of some stop string.
    held: String,
}

/// What a piece of text led to.
#[derive(Debug, PartialEq)]
pub enum Found {
    /// This text is certainly part of the answer.
    Text(String),
    /// The answer ends with this text; the stop string that follows is not part of it.
    Stop {
        /// The last text of the answer.
        text: String,
        /// The stop string.
        stop: String,
    },
}

impl StopFinder {
    /// Looks for any of `stops`, none of which is empty.
    pub fn new(stops: Vec<String>) -> StopFinder {
        StopFinder { stops, held: String::new() }
    }

    /// Adds a piece of text.
    pub fn push(&mut self, piece: &str) -> Found {
        let n_old = self.held.len();
        self.held += piece;
        for end in n_old + 1..=self.held.len() {
            let seen = &self.held.as_bytes()[..end];
            let ending = self.stops.iter().filter(|stop| seen.ends_with(stop.as_bytes()));
            if let Some(stop) = ending.max_by_key(|stop| stop.len()).cloned() {
                let mut text = std::mem::take(&mut self.held);
                text.truncate(end - stop.len());
                return Found::Stop { text, stop };
            }
        }
        let n_held = self.n_held();
        let kept = self.held.split_off(self.held.len() - n_held);
        Found::Text(std::mem::replace(&mut self.held, kept))
    }

    /// The text still held when no more comes: it was not a stop string after all.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Length of the longest end of the text that begins a stop string.
    fn n_held(&self) -> usize {
        let text = self.held.as_bytes();
        let longest = self.stops.iter().map(|stop| stop.len() - 1).max().unwrap_or(0).min(text.len());
        let begins =
            |n: &usize| self.stops.iter().any(|stop| stop.as_bytes().starts_with(&text[text.len() - n..]));
        // A stop string begins at a character boundary, so what begins one does too.
        (1..=longest).rev().find(begins).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rule, stated without streaming.
    fn cut<'a>(text: &'a str, stops: &[String]) -> (&'a str, Option<String>) {
        for end in 1..=text.len() {
            let seen = &text.as_bytes()[..end];
            let ending = stops.iter().filter(|stop| seen.ends_with(stop.as_bytes()));
            if let Some(stop) = ending.max_by_key(|stop| stop.len()) {
                return (&text[..end - stop.len()], Some(stop.clone()));
            }
        }
        (text, None)
    }

    fn streamed(pieces: &[&str], stops: &[String]) -> (String, Option<String>) {
        let mut finder = StopFinder::new(stops.to_vec());
        let mut answer = String::new();
        for piece in pieces {
            match finder.push(piece) {
                Found::Text(text) => answer += &text,
                Found::Stop { text, stop } => return (answer + &text, Some(stop)),
            }
        }
        (answer + &finder.finish(), None)
    }

    /// Numbers that look random and are the same in every run.
    fn numbers() -> impl FnMut(usize) -> usize {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        move |below| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        }
    }

    #[test]
    fn any_cutting_into_pieces_gives_the_same_answer() {
        let mut below = numbers();
        let alphabet = ["a", "b", "é", "世", "🙂"];
        let word = |n: usize, below: &mut dyn FnMut(usize) -> usize| -> String {
            (0..n).map(|_| alphabet[below(alphabet.len())]).collect()
        };
        for _ in 0..20_000 {
            let length = below(14);
            let text = word(length, &mut below);
            let n_stops = below(4);
            let stops: Vec<String> = (0..n_stops)
                .map(|_| {
                    let length = 1 + below(4);
                    word(length, &mut below)
                })
                .collect();
            let (expected, stop) = cut(&text, &stops);
            let chars: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let mut pieces = Vec::new();
            let mut start = 0;
            while start + 1 < chars.len() {
                let end = start + 1 + below(chars.len() - start - 1);
                pieces.push(&text[chars[start]..chars[end]]);
                start = end;
            }
            assert_eq!(streamed(&pieces, &stops), (expected.to_owned(), stop), "{pieces:?} {stops:?}");
        }
    }

    #[test]
    fn no_more_is_held_than_may_begin_a_stop_string() {
        let mut finder = StopFinder::new(vec!["</end>".into()]);
        assert_eq!(finder.push("one <"), Found::Text("one ".into()));
        assert_eq!(finder.push("/e"), Found::Text("".into()));
        assert_eq!(finder.push("x</"), Found::Text("</ex".into()));
        assert_eq!(finder.push("end> two"), Found::Stop { text: "".into(), stop: "</end>".into() });
        let mut none = StopFinder::new(Vec::new());
        assert_eq!(none.push("anything"), Found::Text("anything".into()));
    }
}
