//! Enough HTTP/1.1 for a load generator on the loopback interface: keep-alive, bodies with a length, event streams.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use anyhow::Result;
use serde_json::{Value, json};

use crate::engine::{Engine, Event};
use crate::wire::{self, Asked};

/// Largest body, bytes: far above any prompt of ids that fits a context.
const BODY_LIMIT: usize = 16 << 20;

/// Largest head, bytes.
const HEAD_LIMIT: u64 = 16 << 10;

/// Accepts connections for ever, a thread for each.
pub fn serve(listener: &TcpListener, engine: &Engine) -> Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        let engine = engine.clone();
        // A connection that fails concerns its client alone, who sees it close.
        thread::spawn(move || drop(converse(stream, &engine)));
    }
}

struct Request {
    method: String,
    path: String,
    body: Vec<u8>,
}

fn converse(stream: TcpStream, engine: &Engine) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader)? {
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/health") => reply(&mut writer, "200 OK", &json!({ "status": "ok" }))?,
            ("POST", "/v1/completions") => complete(&mut writer, &request.body, engine)?,
            _ => reply(&mut writer, "404 Not Found", &wire::error("no such route", "invalid_request_error"))?,
        }
    }
    Ok(())
}

/// The next request of a connection, none when the client closed it.
fn read_request(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let invalid = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason.to_owned());
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let n_read = reader.by_ref().take(HEAD_LIMIT - head.len() as u64).read_until(b'\n', &mut head)?;
        if n_read == 0 {
            return if head.is_empty() { Ok(None) } else { Err(invalid("head is too long or cut off")) };
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    parsed.parse(&head).map_err(|error| invalid(&error.to_string()))?;
    let length = parsed
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .map_or(Some(0), |header| std::str::from_utf8(header.value).ok()?.trim().parse().ok())
        .filter(|length| *length <= BODY_LIMIT)
        .ok_or_else(|| invalid("content-length is no number or too large"))?;
    let (method, path) = (parsed.method.unwrap_or("").to_owned(), parsed.path.unwrap_or("").to_owned());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Request { method, path, body }))
}

fn complete(writer: &mut TcpStream, body: &[u8], engine: &Engine) -> io::Result<()> {
    let (sender, events) = channel();
    match wire::parse(body, engine.limits, sender) {
        Err(message) => reply(writer, "400 Bad Request", &wire::error(&message, "invalid_request_error")),
        Ok((request, asked)) => {
            engine.submit(request);
            if asked.stream { stream(writer, &asked, &events) } else { collect(writer, &asked, &events) }
        }
    }
}

/// The next event; a channel that closed without a last event means that the engine thread is gone.
fn next(events: &Receiver<Event>) -> Event {
    events.recv().unwrap_or_else(|_| Event::Failed("the engine has stopped".to_owned()))
}

fn collect(writer: &mut TcpStream, asked: &Asked, events: &Receiver<Event>) -> io::Result<()> {
    let mut ids = Vec::new();
    loop {
        match next(events) {
            Event::Token(id) => ids.push(id),
            Event::Done { stopped } => {
                return reply(writer, "200 OK", &wire::completion(asked, &ids, stopped));
            }
            Event::Failed(reason) => {
                return reply(writer, "500 Internal Server Error", &wire::error(&reason, "server_error"));
            }
        }
    }
}

fn stream(writer: &mut TcpStream, asked: &Asked, events: &Receiver<Event>) -> io::Result<()> {
    writer.write_all(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
    )?;
    let mut n_generated = 0;
    loop {
        match next(events) {
            Event::Token(id) => {
                n_generated += 1;
                send(writer, &wire::chunk(asked, id).to_string())?;
            }
            Event::Done { stopped } => {
                send(writer, &wire::last_chunk(asked, stopped).to_string())?;
                send(writer, &wire::usage_chunk(asked, n_generated).to_string())?;
                break;
            }
            Event::Failed(reason) => {
                send(writer, &wire::error(&reason, "server_error").to_string())?;
                break;
            }
        }
    }
    send(writer, "[DONE]")?;
    writer.write_all(b"0\r\n\r\n")
}

/// One server-sent event as one chunk, in one write so that it leaves in one packet.
fn send(writer: &mut TcpStream, data: &str) -> io::Result<()> {
    let event = format!("data: {data}\n\n");
    writer.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())
}

fn reply(writer: &mut TcpStream, status: &str, body: &Value) -> io::Result<()> {
    let body = body.to_string();
    let length = body.len();
    writer.write_all(
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .as_bytes(),
    )
}
