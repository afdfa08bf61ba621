"""A hub on localhost that speaks what `huggingface_hub` asks for: the listing of a repository, and files by range."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 1000  # bytes from which a file is listed with its sha256, as large files are in git LFS


class Hub:
    """Repositories: the folders OWNER/NAME of `root`.

    Attributes:
        url: of the server.
        requests: (file, first byte asked for) of every download.
        private, gated: names of repositories that are.
        breaks: file -> bytes after which its next download breaks off.
        wrong: files whose bytes are not those that are listed.
    """

    def __init__(self, root: Path):
        self.root, self.url = root, ""
        self.requests: list[tuple[str, int]] = []
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.breaks: dict[str, int] = {}
        self.wrong: set[str] = set()

    def listing(self, repository: str) -> dict:
        folder = self.root / repository
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        siblings = [_sibling(path, path.relative_to(folder).as_posix()) for path in files]
        return {"id": repository, "sha": COMMIT, "siblings": siblings, "cardData": {"license": "mit"}}


def _sibling(path: Path, name: str) -> dict:
    data = path.read_bytes()
    entry = {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
    if len(data) >= LARGE:
        entry["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 130}
    return entry


@contextmanager
def serving(root: Path):
    """Yield a Hub while it is served."""
    hub = Hub(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                self.answer(*_listed(hub, "/".join(parts[2:4])))
            elif parts[2:3] == ["resolve"]:
                self.resolve("/".join(parts[:2]), "/".join(parts[4:]))
            elif parts[0] == "store":
                self.send_file("/".join(parts[1:3]), "/".join(parts[3:]))
            else:
                self.answer(404, b"{}", {})

        def answer(self, status: int, body: bytes, headers: dict) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": len(body)} | headers).items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(body)

        def resolve(self, repository: str, name: str) -> None:
            path = hub.root / repository / name
            if not path.is_file():
                self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            elif path.stat().st_size >= LARGE:  # large files are in another store
                self.answer(302, b"", {"Location": f"{hub.url}/store/{repository}/{name}"})
            else:
                self.send_file(repository, name)

        def send_file(self, repository: str, name: str) -> None:
            path = hub.root / repository / name
            data = path.read_bytes()
            data = bytes(len(data)) if name in hub.wrong else data
            start = int(self.headers.get("Range", "bytes=0-")[6:].rstrip("-"))
            hub.requests.append((name, start))
            length = len(data) - start
            self.send_response(206)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            end = hub.breaks.pop(name, length)
            self.wfile.write(data[start : start + end])
            if end < length:
                self.wfile.flush()
                self.connection.close()
                self.close_connection = True

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _listed(hub: Hub, repository: str) -> tuple[int, bytes, dict]:
    if repository in hub.private or not (hub.root / repository).is_dir():
        return 401, b'{"error": "Invalid username or password."}', {}
    if repository in hub.gated:
        return 403, b"{}", {"X-Error-Code": "GatedRepo"}
    return 200, json.dumps(hub.listing(repository)).encode(), {"Content-Type": "application/json"}
