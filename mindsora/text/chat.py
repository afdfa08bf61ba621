"""Tokenisers of instruct models: a system text and a request to token ids, an answer's ids to text."""

import os
from pathlib import Path

import tokenizers

from mindsora.config import read_json
from mindsora.errors import InputError, shown
from mindsora.text.tokenizers import read_tokenizer

_BEGIN, _OPEN, _CLOSE, _END = "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
_MAX_TEMPLATE = 2**18  # bytes; Llama 3.1's has 4 kB


class ChatTokenizer:
    """A byte-pair tokeniser and the chat format that its model was trained with.

    Llama 3's headers are written here, since the stock template of Llama 3.1 adds a date that the refiner's training does
    not have. Every other model brings a Jinja template.
    """

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, template: str | None = None, tokens: dict[str, str] | None = None
    ):
        """template: Jinja source; None is Llama 3's headers. tokens: `bos_token` and `eos_token` for the template."""
        self.tokenizer, self.template, self.tokens = tokenizer, template, tokens or {}
        self.special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]

    @classmethod
    def from_folder(cls, folder: str | os.PathLike) -> "ChatTokenizer":
        """Read `tokenizer.json` and, if it lacks Llama 3's headers, the chat template beside it.

        Raises:
            InputError: a file is missing or damaged.
        """
        folder = Path(folder)
        if not os.path.isfile(folder / "tokenizer.json"):
            raise InputError(f"{shown(folder)} needs the tokenizer.json of an instruct model")
        tokenizer = read_tokenizer(folder / "tokenizer.json", "BPE")
        if all(tokenizer.token_to_id(token) is not None for token in (_BEGIN, _OPEN, _CLOSE, _END)):
            return cls(tokenizer)
        config = read_json(folder / "tokenizer_config.json")
        template = _template(folder, config)
        tokens = {name: _content(config.get(name)) for name in ("bos_token", "eos_token")}
        return cls(tokenizer, template, tokens)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)

    @property
    def end_ids(self) -> set[int]:
        """Ids that end an answer in Llama 3's format; a model with a template names its own in its configuration."""
        return set() if self.template is not None else {self.tokenizer.token_to_id(_END)}

    def text(self, system: str, request: str) -> str:
        """The conversation up to where the answer begins.

        Raises:
            InputError: the request holds a control token of the model, or the template fails.
        """
        if inside := [token for token in self.special if token in request]:
            raise InputError(f"{shown(request)} holds {shown(inside[0])}, a control token of the refiner; remove it")
        if self.template is not None:
            return self._rendered(system, request)
        headers = "".join(
            f"{_OPEN}{role}{_CLOSE}\n\n{said}{_END}" for role, said in (("system", system), ("user", request))
        )
        return f"{_BEGIN}{headers}{_OPEN}assistant{_CLOSE}\n\n"

    def encode(self, text: str) -> list[int]:
        """Ids of a conversation; nothing is added."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        """The text of ids, without control tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def _rendered(self, system: str, request: str) -> str:
        try:
            import jinja2
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            raise InputError("this refiner's chat template needs jinja2: pip install 'mindsora[refiner]'") from error
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        messages = [{"role": "system", "content": system}, {"role": "user", "content": request}]
        try:
            template = environment.from_string(self.template)
            return template.render(messages=messages, add_generation_prompt=True, **self.tokens)
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            reason = shown(" ".join(str(error).split()), quote=False)
            raise InputError(f"the refiner's chat template fails: {reason}") from error


def _refuse(message: object) -> None:
    raise InputError(f"the refiner's chat template refuses the conversation: {shown(message, quote=False)}")


def _template(folder: Path, config: dict) -> str:
    """The template of a tokeniser's folder: a file of its own, or a value of its configuration."""
    path = folder / "chat_template.jinja"
    if os.path.isfile(path):
        with open(path, "rb") as file:
            content = file.read(_MAX_TEMPLATE + 1)
        template: object = content.decode("utf-8", "replace")
    else:
        template = config.get("chat_template")
    if isinstance(template, list):  # several by name
        named = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
        template = named.get("default")
    if not isinstance(template, str) or len(template) > _MAX_TEMPLATE:
        raise InputError(
            f"{shown(folder)} has no chat template of at most {_MAX_TEMPLATE} bytes, and its tokenizer.json lacks "
            "Llama 3's headers: choose an instruct model, not a base model"
        )
    return template


def _content(token: object) -> str:
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else ""
