"""OpenAI's `/v1/completions`, as far as a race needs it: token ids in, token ids out, greedy, streamed or whole.

For runtimes that are libraries. An engine is one loop over `Inbox`, in a thread of its own; it writes each token to the
client's socket itself, without handing it to another thread, because with two cores a hand-over costs more than the
write. A token costs the engine's thread about 4 µs here (3 µs of CPU), measured over a pair of sockets; the fastest
engine on the smallest model that we race makes a step of eight tokens in some 8 ms.
"""

import argparse
import json
import queue
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# A client that takes nothing for so long has left.
PATIENCE_S = 10


def arguments():
    """What every server of this kind is started with; an engine adds its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="folder in the engine's own format")
    parser.add_argument("--listen", required=True, help="ADDRESS:PORT")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, required=True, help="most positions of one sequence")
    parser.add_argument("--concurrency", type=int, required=True, help="most sequences in flight")
    return parser


class Sequence:
    """One completion: what was asked, and the way back to who asked."""

    def __init__(self, body, context, connection):
        self.prompt = body.get("prompt")
        if not isinstance(self.prompt, list) or not self.prompt or not all(type(it) is int for it in self.prompt):
            raise ValueError("prompt must be a non-empty array of token ids")
        self.max_tokens = body.get("max_tokens", 16)
        if type(self.max_tokens) is not int or self.max_tokens < 1:
            raise ValueError("max_tokens must be a positive number")
        if len(self.prompt) + self.max_tokens > context:
            raise ValueError(f"prompt and max_tokens exceed the context of {context}")
        if body.get("temperature", 0) != 0:
            raise ValueError("temperature must be 0: this server decodes greedily")
        self.ignore_eos = body.get("ignore_eos") is True
        self.is_streamed = body.get("stream") is True
        self.is_done = threading.Event()
        self.ids = []
        self.is_gone = False
        self._connection = connection
        model = json.dumps(body.get("model", ""))
        self._head = f'"id":"cmpl-0","object":"text_completion","created":0,"model":{model}'

    def open(self):
        """Sends the head of a stream; a whole answer has none before its end."""
        if self.is_streamed:
            self._send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")

    def add(self, ids):
        """New tokens, at once to the client. False when nobody is there any more."""
        self.ids += ids
        if self.is_streamed and ids:
            self._event(f"{{{self._head},{self._choice(ids, None)}}}")
        return not self.is_gone

    def finish(self):
        reason = "length" if len(self.ids) >= self.max_tokens else "stop"
        usage = (
            f'"usage":{{"prompt_tokens":{len(self.prompt)},"completion_tokens":{len(self.ids)},'
            f'"total_tokens":{len(self.prompt) + len(self.ids)}}}'
        )
        if self.is_streamed:
            self._event(f"{{{self._head},{self._choice([], reason)}}}")
            self._event(f'{{{self._head},"choices":[],{usage}}}')
            self._event("[DONE]")
            self._send(b"0\r\n\r\n")
        else:
            self._send(whole("200 OK", f"{{{self._head},{self._choice(self.ids, reason)},{usage}}}"))
        self.is_done.set()

    def fail(self, reason):
        if self.is_streamed:
            self._event(error(reason, "server_error"))
            self._send(b"0\r\n\r\n")
        else:
            self._send(whole("500 Internal Server Error", error(reason, "server_error")))
        self.is_done.set()

    def _choice(self, ids, reason):
        # The text is empty: a race has no use for it, and a tokenizer would cost time.
        return (
            f'"choices":[{{"index":0,"text":"","token_ids":[{",".join(map(str, ids))}],"logprobs":null,'
            f'"finish_reason":{json.dumps(reason)}}}]'
        )

    def _event(self, data):
        event = f"data: {data}\n\n"
        self._send(f"{len(event):x}\r\n{event}\r\n".encode())

    def _send(self, data):
        try:
            self._connection.sendall(data)
        except OSError:
            self.is_gone = True


class Inbox:
    """What was asked and not yet begun."""

    def __init__(self):
        self._waiting = queue.SimpleQueue()

    def put(self, sequence):
        self._waiting.put(sequence)

    def take(self, is_idle):
        """The next sequence, none where there is none; waits for one when the engine is idle."""
        try:
            return self._waiting.get(block=is_idle)
        except queue.Empty:
            return None


def serve(args, engine):
    """Serves for ever. `engine(inbox)` never returns; whatever ends it ends the server."""
    inbox = Inbox()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self):
            super().setup()
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def do_GET(self):
            found = self.path == "/health"
            self.connection.sendall(
                whole("200 OK", '{"status":"ok"}') if found else whole("404 Not Found", error("no such route", "invalid_request_error"))
            )

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            try:
                if self.path != "/v1/completions":
                    raise ValueError("no such route")
                sequence = Sequence(json.loads(body), args.context, self.connection)
            except ValueError as refusal:
                self.connection.sendall(whole("400 Bad Request", error(str(refusal), "invalid_request_error")))
                return
            self.connection.settimeout(PATIENCE_S)
            sequence.open()
            inbox.put(sequence)
            sequence.is_done.wait()
            self.connection.settimeout(None)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        # Every sequence in flight may arrive on a connection of its own, all at once.
        request_queue_size = 128

    address, port = args.listen.rsplit(":", 1)
    server = Server((address, int(port)), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    engine(inbox)


def whole(status, body):
    body = body.encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def error(message, kind):
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": None}})
