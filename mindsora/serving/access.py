"""Who may call: a token beyond this machine, and no web page of another site; how long a body may be."""

from __future__ import annotations

import hmac
import ipaddress
import json
import os
from http.cookies import SimpleCookie
from urllib.parse import urlsplit

from mindsora.errors import InputError, shown

VARIABLE = "MINDSORA_TOKEN"  # a variable, because every user of a machine sees the arguments of its programs
SHORTEST_TOKEN = 16
COOKIE = "mindsora_token"


def is_local(host: str) -> bool:
    """Whether nobody beyond this machine reaches a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def token_for(host: str) -> str | None:
    """The token in MINDSORA_TOKEN.

    Raises:
        InputError: it is too short, or there is none and the server listens beyond localhost.
    """
    token = os.environ.get(VARIABLE) or None
    if token is None and not is_local(host):
        raise InputError(
            f"host {shown(host)} lets other machines in: set {VARIABLE} to a secret of at least {SHORTEST_TOKEN} "
            "characters, or listen on 127.0.0.1"
        )
    if token is not None and not (len(token) >= SHORTEST_TOKEN and token.isascii() and token.isprintable()):
        raise InputError(
            f"{VARIABLE} has {len(token)} characters: give at least {SHORTEST_TOKEN}, ASCII, such as "
            "`python -c 'import secrets; print(secrets.token_urlsafe())'` prints"
        )
    return token


class Guard:
    """ASGI middleware. It answers for the application where a request is not to reach it.

    Args:
        host: that the server listens on. On localhost only requests to localhost pass, so that no web page can use a
            name that leads here.
        token: as a bearer token or in a cookie; None: everybody may call.
        largest: bytes of a body.
        open_paths: need no token.
        login: path that a browser without the token is sent to; None: it is refused as all others.
    """

    def __init__(self, app, host: str, token: str | None, largest: int, open_paths=("/health",), login=None):
        self.app, self.host, self.token, self.largest = app, host, token, largest
        self.open_paths, self.login = open_paths, login

    async def __call__(self, scope, receive, send):
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if refusal := self._refusal(scope, headers):
            if refusal[0] == 401 and self._wants_login(scope, headers):
                location = (b"location", self.login.encode())
                await send({"type": "http.response.start", "status": 303, "headers": [location]})
                return await send({"type": "http.response.body", "body": b""})
            if scope["type"] == "http":
                await _drop_body(receive, 4 * self.largest)
            return await _answer(send, scope, *refusal)
        await self.app(scope, self._counted(receive), send)

    def _wants_login(self, scope, headers: dict[str, str]) -> bool:
        """Whether a person opens a page without the token."""
        page = scope["type"] == "http" and scope["method"] == "GET" and "text/html" in headers.get("accept", "")
        return page and self.login is not None

    def _refusal(self, scope, headers: dict[str, str]) -> tuple[int, str, str] | None:
        """Status, code and sentence."""
        name = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        if is_local(self.host) and not is_local(name):
            return 403, "host_not_allowed", f"host {shown(name)} is not this machine; call 127.0.0.1"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return 403, "origin_not_allowed", f"a page of {shown(origin)} may not call this server"
        if not self._knows_token(headers) and scope["path"] not in self.open_paths:
            return 401, "invalid_api_key", f"give the server's token: Authorization: Bearer ${VARIABLE}"
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.largest:
            return 413, "too_large", f"a body of {shown(length, quote=False)} bytes: at most {self.largest}"
        return None

    def _knows_token(self, headers: dict[str, str]) -> bool:
        if self.token is None:
            return True
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except Exception:  # http.cookies has no common class of errors
            cookie = None
        given = bearer.strip() if kind.lower() == "bearer" else cookie.value if cookie else ""
        return hmac.compare_digest(given.encode(), self.token.encode())

    def _counted(self, receive):
        """`receive` that ends a body that is longer than it says: its client is gone for the application."""
        seen = 0

        async def counted():
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            return {"type": "http.disconnect"} if seen > self.largest else message

        return counted


async def _drop_body(receive, most: int) -> None:
    """Read what the client still sends, so that it reads the answer; who sends more than this has the connection cut."""
    more, seen = True, 0
    while more and seen < most:
        message = await receive()
        more, seen = message.get("more_body", False), seen + len(message.get("body", b""))


async def _answer(send, scope, status: int, code: str, sentence: str) -> None:
    if scope["type"] == "websocket":
        return await send({"type": "websocket.close", "code": 1008})
    error = {"message": sentence, "type": "invalid_request_error", "param": None, "code": code}
    body = json.dumps({"error": error}).encode()
    length = str(len(body)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
