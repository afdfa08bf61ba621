"""A server on localhost with OpenAI's chat completions, whose answers a test chooses."""

import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """What it answers with.

    Attributes:
        url: up to /v1.
        models: names that it lists.
        reply: the body of a chat completion; bytes are sent as they are, a function answers by itself.
        status: of a chat completion.
        asked: bodies of the completions that it was asked for.
        released: what a handler that hangs waits for.
    """

    url: str = ""
    models: list = field(default_factory=lambda: ["refiner"])
    reply: object = None
    status: int = 200
    asked: list = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def says(self, content, finish: str = "stop") -> None:
        """Answer every prompt with this content."""
        self.reply = {
            "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}]
        }


@contextmanager
def serving():
    """Yield a Server while it is served."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in server.models]})

        def do_POST(self):
            server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            if isinstance(server.reply, Callable):
                server.reply(self)
            else:
                self.send(server.status, server.reply)

        def send(self, status: int, body) -> None:
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            """Tests close connections in the middle."""

    http = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield server
    finally:
        server.released.set()
        http.shutdown()
        http.server_close()
