"""The refiner's own language model, or another of Llama's layers, in MindSpore."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mindsora.config import read_json
from mindsora.errors import InputError, shown
from mindsora.models import registry
from mindsora.refine.instruction import MAX_NEW_TOKENS, SYSTEM, request, unfinished
from mindsora.text.chat import ChatTokenizer

_PAD = 64  # a conversation is padded to a multiple: prompts of nearly one length have equal shapes


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn, from a `generation_config.json`; the defaults are the likeliest token.

    Attributes:
        top_k: only so many of the likeliest tokens; 0: all.
        top_p: only the likeliest tokens that together have this probability.
    """

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    @classmethod
    def read(cls, folder: Path) -> "Sampling":
        """InputError: a value that is no number or out of range."""
        path = folder / "generation_config.json"
        config = read_json(path) if os.path.isfile(path) else {}
        values = {name: config[name] for name in vars(cls()) if config.get(name) is not None}
        for name, value in values.items():
            if (
                not isinstance(value, (int, float))
                or not 0 <= value <= 1_000_000
                or (name == "temperature" and not value)
            ):
                raise InputError(f"{shown(path)}: {name} = {shown(repr(value), quote=False)} is out of range")
        return cls(**values)

    def pick(self, logits: np.ndarray, rng: np.random.Generator) -> int:
        """The id of the next token. logits: (vocabulary,) float32."""
        if not self.do_sample:
            return int(logits.argmax())
        ids = np.argsort(-logits, kind="stable")[: int(self.top_k) or None]
        p = np.exp((logits[ids] - logits[ids[0]]).astype(np.float64) / self.temperature)
        p /= p.sum()
        kept = p.cumsum() - p < max(self.top_p, 1e-9)  # the first that reach top_p, at least one
        return int(rng.choice(ids[kept], p=p[kept] / p[kept].sum()))


class Llama:
    """A folder with config.json, weights, tokenizer.json and generation_config.json, as transformers writes it.

    It loads with the first prompt: 16 GB in bfloat16 for the 8B model, 32 GB in float32, which CPU needs.
    """

    def __init__(self, folder: str | os.PathLike):
        """InputError: a file is missing, or the folder holds another kind of model."""
        self.folder = Path(folder)
        spec = registry.specs("refiner")[0]
        config = read_json(self.folder / "config.json")
        if (named := config.get("architectures") or [spec.name]) != [spec.name]:
            raise InputError(
                f"{shown(folder)} holds {shown(named, quote=False)}; only {spec.name} refines here. Another model can "
                "serve by its URL (vLLM, Ollama, MindIE)"
            )
        self.tokenizer, self.sampling = ChatTokenizer.from_folder(folder), Sampling.read(self.folder)
        self.ends = self.tokenizer.end_ids | _end_ids(self.folder, config)
        if not self.ends:
            raise InputError(f"{shown(folder)} names no eos_token_id in generation_config.json or config.json")

    @cached_property
    def model(self):
        """The Cell with its weights."""
        return registry.specs("refiner")[0].cell.from_pretrained(self.folder)

    def __call__(self, prompt: str) -> str:
        """The answer to a prompt, the same in every run.

        Raises:
            InputError: weights that do not fit, a vocabulary larger than the model's, a prompt that is too long.
            NoAnswer: the answer has no end.
        """
        ids = self.tokenizer.encode(self.tokenizer.text(SYSTEM, request(prompt)))
        return self.tokenizer.decode(self._answer(ids))

    def _answer(self, ids: list[int]) -> list[int]:
        from mindspore import Tensor

        config = self.model.config
        if self.tokenizer.vocab_size > config.vocab_size:
            raise InputError(
                f"{shown(self.folder)}: tokenizer.json has {self.tokenizer.vocab_size} ids, the model {config.vocab_size}"
            )
        padded = -(-len(ids) // _PAD) * _PAD
        if padded + MAX_NEW_TOKENS > config.max_position_embeddings:
            raise InputError(
                f"the prompt has {len(ids)} tokens with its instruction; the refiner reads "
                f"{config.max_position_embeddings - MAX_NEW_TOKENS}"
            )
        rng = np.random.default_rng(0)
        cache = self.model.empty_cache(padded + MAX_NEW_TOKENS)
        new = np.array(ids + [0] * (padded - len(ids)), np.int32)
        last, first, answer = len(ids) - 1, 0, []
        while len(answer) < MAX_NEW_TOKENS:
            logits, *cache = self.model(Tensor(new), Tensor(np.int32(first)), *cache)
            token = self.sampling.pick(logits[last].asnumpy(), rng)
            if token in self.ends:
                return answer
            new, last, first = np.array([token], np.int32), 0, len(ids) + len(answer)
            answer.append(token)
        raise unfinished()


def _end_ids(folder: Path, config: dict) -> set[int]:
    """Ids of tokens that end an answer."""
    path = folder / "generation_config.json"
    own = (read_json(path) if os.path.isfile(path) else {}).get("eos_token_id", config.get("eos_token_id"))
    ids = own if isinstance(own, list) else [own]
    return {one for one in ids if isinstance(one, int)}
