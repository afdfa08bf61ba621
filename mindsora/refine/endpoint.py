"""A server with OpenAI's chat completions: vLLM, Ollama, MindIE, llama.cpp."""

import contextlib
import http.client
import json
import re
import socket
import threading
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlsplit

from mindsora.config import parse_json
from mindsora.errors import InputError, shown
from mindsora.refine.instruction import MAX_NEW_TOKENS, SYSTEM, NoAnswer, request, unfinished

SECONDS = 300  # for a request; 512 tokens of an 8B model take a minute or two on a CPU
_MAX_REPLY = 4 * 2**20  # bytes; 512 tokens and a reasoning model's thoughts are some 100 kB
_PATH = re.compile(r"[\w./~-]*")


@dataclass(frozen=True)
class Endpoint:
    """Asks a server, without a proxy and without following redirects: a prompt goes where the URL says.

    Attributes:
        url: up to /v1, as the user wrote it, for messages.
        host, port, path, encrypted: of the URL.
        named: the model to ask for; "" is the only one that the server has.
    """

    url: str
    host: str
    port: int
    path: str
    encrypted: bool
    named: str

    @classmethod
    def parse(cls, text: str) -> "Endpoint":
        """From http://HOST:PORT/v1, with #MODEL behind it where the server has several models."""
        try:
            parts = urlsplit(text)
            scheme, host, port = parts.scheme, parts.hostname, parts.port
        except ValueError as error:
            raise InputError(f"refiner {shown(text)}: {shown(error, quote=False)}") from error
        if (
            scheme not in ("http", "https")
            or not host
            or parts.query
            or parts.username
            or not _PATH.fullmatch(parts.path)
        ):
            raise InputError(f"refiner {shown(text)}: must be a URL such as http://127.0.0.1:8000/v1#MODEL")
        encrypted = scheme == "https"
        port = port or (443 if encrypted else 80)
        return cls(text.partition("#")[0], host, port, parts.path.rstrip("/") or "/v1", encrypted, parts.fragment)

    def __call__(self, prompt: str) -> str:
        """The answer to a prompt.

        Raises:
            InputError: no server, an error that it reports, or a reply that is no chat completion.
            NoAnswer: an answer that is empty or cut.
        """
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": request(prompt)}]
        # Without temperature: the server takes that of the model. The seed makes an answer repeatable where it knows one.
        body = {"model": self.model, "messages": messages, "max_tokens": MAX_NEW_TOKENS, "seed": 0, "stream": False}
        reply = self._reply("POST", "/chat/completions", body)
        try:
            choice = reply["choices"][0]
            content, finish = choice["message"]["content"], choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise self._strange("has no choices[0].message.content") from error
        if finish == "length":
            raise unfinished()
        if content is None:
            raise NoAnswer("the answer is empty")
        if not isinstance(content, str):
            raise self._strange(f"has a content of type {type(content).__name__}, not a text")
        return content

    @cached_property
    def model(self) -> str:
        """The model to ask for."""
        if self.named:
            return self.named
        reply = self._reply("GET", "/models")
        try:
            names = [model["id"] for model in reply["data"]]
        except (KeyError, TypeError) as error:
            raise self._strange("has no list of models") from error
        if len(names) != 1 or not isinstance(names[0], str):
            several = ", ".join(shown(name, 80, quote=False) for name in names[:8]) or "none"
            raise InputError(f"{shown(self.url)} has {len(names)} models ({several}): name one as {self.url}#MODEL")
        return names[0]

    def _reply(self, method: str, path: str, body: dict | None = None):
        """The JSON of a reply."""
        headers = {"Content-Type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        try:
            with self._connection() as connection:
                connection.request(method, self.path + path, content, headers)
                response = connection.getresponse()
                status, reply = response.status, response.read(_MAX_REPLY + 1)
                if response.length and len(reply) <= _MAX_REPLY:
                    raise http.client.IncompleteRead(reply, response.length)
        except TimeoutError as error:
            raise self._late() from error
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a header that cannot be sent
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise InputError(f"refiner {shown(self.url)} does not answer: {shown(reason, quote=False)}") from error
        if status != 200:
            said = shown(reply[:1000].decode("utf-8", "replace"), 300, quote=False)
            raise InputError(f"refiner {shown(self.url)} answers {method} {path} with status {status}: {said}")
        if len(reply) > _MAX_REPLY:
            raise self._strange(f"is longer than {_MAX_REPLY} bytes")
        try:
            return parse_json(reply)
        except (ValueError, RecursionError) as error:
            raise self._strange(f"is not JSON: {shown(error, quote=False)}") from error

    @contextlib.contextmanager
    def _connection(self):
        """A connection that ends after SECONDS, even if the server sends a byte now and then."""
        kind = http.client.HTTPSConnection if self.encrypted else http.client.HTTPConnection
        connection, late = kind(self.host, self.port, timeout=SECONDS), threading.Event()
        connection.connect()
        # Not connection.sock later on: http.client forgets the socket of a reply that ends the connection.
        timer = threading.Timer(SECONDS, _shut, (connection.sock, late))
        timer.daemon = True
        timer.start()
        try:
            yield connection
        except (OSError, http.client.HTTPException) as error:
            raise self._late() if late.is_set() else error from error
        finally:
            timer.cancel()
            connection.close()
        if late.is_set():  # a reply without a length ends where the connection does
            raise self._late()

    def _late(self) -> InputError:
        return InputError(f"refiner {shown(self.url)} gave no answer within {SECONDS:g} seconds")

    def _strange(self, what: str) -> InputError:
        return InputError(f"the reply of {shown(self.url)} {what}; is it an OpenAI-style endpoint, up to /v1?")


def _shut(connection: socket.socket, late: threading.Event) -> None:
    late.set()
    with contextlib.suppress(OSError):  # it is closed already
        connection.shutdown(socket.SHUT_RDWR)
