"""The page of the blinded rating, on 127.0.0.1 alone: nothing leaves the machine."""

import json
import re
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from mindsora.errors import InputError
from mindsora.evaluate.rating import REPORT, Rating
from mindsora.files import write_json

PAGE = Path(__file__).with_name("rating.html")
MAX_BODY = 4096  # bytes of a vote
TYPES = {".webm": "video/webm", ".gif": "image/gif", ".mkv": "video/x-matroska", ".avi": "video/x-msvideo"}
# The page loads nothing but its own script and clips.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; media-src 'self'; connect-src 'self'"
)


def serve(folders: Sequence[str], port: int) -> int:
    """Serve the page of a folder until interrupted, then write REPORT into it. Returns 0, the exit status.

    Raises:
        InputError: not one folder, no pairs in it, or a port that is out of range or taken.
    """
    if len(folders) != 1:
        raise InputError(f"`mindsora evaluate rate` takes one folder, not {len(folders)}")
    folder = Path(folders[0])
    server = start(folder, port)
    pairs = len(server.rating.pairs)
    try:
        print(
            f"http://127.0.0.1:{server.server_port}/ shows {pairs} pairs; Ctrl-C ends and writes the report", flush=True
        )
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
        write_json(folder / REPORT, server.rating.report())
        print(folder / REPORT)
    return 0


def start(folder: Path, port: int = 0) -> "RatingServer":
    """A server that listens, for the caller to run. Port 0 takes a free one."""
    if not 0 <= port <= 65535:
        raise InputError(f"port {port}: must be 0 to 65535, where 0 takes a free one")
    rating = Rating(folder)
    try:
        return RatingServer(rating, port)
    except OSError as error:
        raise InputError(
            f"cannot listen on port {port} of 127.0.0.1: {error.strerror}; choose another --port"
        ) from None


class RatingServer(ThreadingHTTPServer):
    """One thread for each request."""

    daemon_threads = True

    def __init__(self, rating: Rating, port: int):
        self.rating = rating
        super().__init__(("127.0.0.1", port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RatingServer

    def do_GET(self) -> None:
        """The page, the next pair, a clip, or the report."""
        url = urlsplit(self.path)
        if not self._is_local():
            self._send(HTTPStatus.FORBIDDEN, {"error": "this page is for 127.0.0.1"})
        elif url.path == "/":
            self._body(HTTPStatus.OK, "text/html; charset=utf-8", PAGE.read_bytes())
        elif url.path == "/next":
            self._answer(lambda: self.server.rating.next_for(parse_qs(url.query).get("rater", [""])[0]))
        elif url.path == "/report":
            self._answer(self.server.rating.report)
        elif (path := self.server.rating.clip(url.path.removeprefix("/clip/"))) is not None:
            self._clip(path)
        else:
            self._send(HTTPStatus.NOT_FOUND, {"error": "no such page"})

    def do_POST(self) -> None:
        """A vote, as JSON {rater, pair, choice}; answers with the next pair."""
        length = self.headers.get("Content-Length", "")
        body = self.rfile.read(int(length)) if length.isdigit() and int(length) <= MAX_BODY else None
        # A page of another site cannot send this content type without asking first, and is refused then.
        json_sent = self.headers.get("Content-Type", "").split(";")[0] == "application/json"
        if body is None or not json_sent or self.path != "/vote" or not self._is_local():
            self.close_connection = True
            self._send(HTTPStatus.BAD_REQUEST, {"error": f"POST /vote takes JSON of at most {MAX_BODY} bytes"})
            return
        self._answer(lambda: self._vote(body))

    def _vote(self, body: bytes) -> dict:
        try:
            vote = json.loads(body)
            rater, pair, choice = (vote[name] for name in ("rater", "pair", "choice"))
        except (ValueError, KeyError, TypeError):
            raise InputError("a vote is JSON with rater, pair and choice") from None
        self.server.rating.vote(rater, pair, choice)
        return self.server.rating.next_for(rater)

    def _is_local(self) -> bool:
        """Whether the request was addressed to this machine; a foreign name that resolves to it is refused."""
        return urlsplit(f"//{self.headers.get('Host', '')}").hostname in ("127.0.0.1", "localhost")

    def _answer(self, ask) -> None:
        try:
            self._send(HTTPStatus.OK, ask())
        except InputError as error:
            self._send(HTTPStatus.BAD_REQUEST, {"error": str(error)})

    def _send(self, status: HTTPStatus, content: dict) -> None:
        self._body(status, "application/json", json.dumps(content).encode())

    def _clip(self, path: Path) -> None:
        """A clip, or the part of it that the browser asks for."""
        content = path.read_bytes()
        kind = TYPES.get(path.suffix.lower(), "video/mp4")
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None or int(asked[1]) >= len(content):
            self._body(HTTPStatus.OK, kind, content)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
        span = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
        self._body(HTTPStatus.PARTIAL_CONTENT, kind, content[first : last + 1], span)

    def _body(self, status: HTTPStatus, kind: str, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Content-Security-Policy": POLICY,
            "Cache-Control": "no-store",
            "Accept-Ranges": "bytes",
            "X-Content-Type-Options": "nosniff",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args) -> None:
        """Nothing: votes are private, and a line for each request hides the address of the page."""
