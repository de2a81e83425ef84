//! Server-sent events, from bytes as they arrive.

/// Splits a byte stream into events. Chunks may end anywhere, lines in LF, CRLF or CR.
#[derive(Debug, Default)]
pub struct SseParser {
    /// The current line, so far.
    line: Vec<u8>,
    /// The data of the current event, so far; absent until its first `data` line.
    data: Option<Vec<u8>>,
    /// Whether the last byte was a CR, so that an LF right after it ends no second line.
    after_cr: bool,
}

impl SseParser {
    /// Takes the next bytes and calls `on_event` with the data of each event they complete. Comments and fields
    /// other than `data` are dropped; several data lines are joined by LF; bytes that are not UTF-8 are replaced.
    pub fn feed(&mut self, chunk: &[u8], mut on_event: impl FnMut(&str)) {
        for &byte in chunk {
            let was_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if was_cr => {}
                b'\n' | b'\r' => self.end_line(&mut on_event),
                _ => self.line.push(byte),
            }
        }
    }

    fn end_line(&mut self, on_event: &mut impl FnMut(&str)) {
        if self.line.is_empty() {
            if let Some(data) = self.data.take() {
                on_event(&String::from_utf8_lossy(&data));
            }
            return;
        }
        let (field, value) = match self.line.iter().position(|&byte| byte == b':') {
            Some(colon) => (&self.line[..colon], &self.line[colon + 1..]),
            None => (&self.line[..], &[][..]),
        };
        if field == b"data" {
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match &mut self.data {
                None => self.data = Some(value.to_vec()),
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
            }
        }
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(chunks: &[&[u8]]) -> Vec<String> {
        let mut parser = SseParser::default();
        let mut events = Vec::new();
        for chunk in chunks {
            parser.feed(chunk, |data| events.push(data.to_owned()));
        }
        events
    }

    #[test]
    fn every_split_gives_the_same_events() {
        let text = "data: {\"a\":\"é\"}\n\n: ping\r\n\r\ndata:two\r\ndata: lines\r\n\r\nevent: x\ndata\n\ndata: [DONE]\n\n";
        let whole = events(&[text.as_bytes()]);
        assert_eq!(whole, ["{\"a\":\"é\"}", "two\nlines", "", "[DONE]"]);
        for cut in 0..=text.len() {
            let (head, tail) = text.as_bytes().split_at(cut);
            assert_eq!(events(&[head, tail]), whole, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(events(&bytes), whole);
    }

    #[test]
    fn an_event_without_its_blank_line_is_not_an_event() {
        assert_eq!(events(&[b"data: one\n\ndata: cut"]), ["one"]);
    }

    #[test]
    fn lone_carriage_returns_end_lines() {
        assert_eq!(events(&[b"data: a\r\rdata: b\r\r"]), ["a", "b"]);
    }
}
