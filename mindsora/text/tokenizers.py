"""Tokenisers from the files of a tokeniser folder: prompts to padded token ids."""

import os
from pathlib import Path

import numpy as np
import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from mindsora.config import read_json
from mindsora.errors import InputError, shown
from mindsora.files import write_json


class _PaddedTokenizer:
    """Base class: content ids between an optional start id and an end id, padded on the right to max_length.

    All prompts have the same padded length, so that prompts of any length run the same compiled graph.
    """

    start: tuple[int, ...] = ()

    def __init__(self, max_length: int, end_id: int, pad_id: int):
        if max_length < 2 + len(self.start):
            raise InputError(f"max_length = {max_length}: must be at least {2 + len(self.start)}")
        self.max_length, self.end_id, self.pad_id = max_length, end_id, pad_id
        self.room = max_length - 1 - len(self.start)  # content ids that fit

    def __call__(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokenise a batch.

        Returns:
            ids int32 (B, max_length), and mask int32 (B, max_length) with 1 for every id except padding. A text that is
            too long keeps its first ids and the end id.
        """
        if isinstance(texts, str):
            raise InputError(f"texts must be a list of prompts, not the single prompt {shown(texts)}")
        ids = np.full((len(texts), self.max_length), self.pad_id, np.int32)
        mask = np.zeros_like(ids)
        for row, text in enumerate(texts):
            tokens = [*self.start, *self.encode(text)[: self.room], self.end_id]
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        return ids, mask

    def save(self, folder: Path) -> None:
        """Write the files that `from_folder` reads."""
        self.tokenizer.save(str(folder / "tokenizer.json"))

    def truncated(self, text: str) -> str:
        """The end of `text` that does not fit, which the encoder never sees; empty if all of it fits."""
        return self.tail(text, self.room).strip() if len(self.encode(text)) > self.room else ""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id; the encoder's embedding needs as many rows."""
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        """All content ids, without truncation."""
        raise NotImplementedError

    def tail(self, text: str, first: int) -> str:
        """The part of `text` that the content ids from number `first` on represent."""
        raise NotImplementedError


class T5Tokenizer(_PaddedTokenizer):
    """Sentencepiece unigram of T5, mT5 and UMT5. White space collapses; case is kept.

    It treats the strings of special tokens (`</s>`, `<extra_id_0>`) in a prompt as ordinary characters, and turns
    characters outside the vocabulary into bytes if the model has byte pieces; transformers' fast tokenisers differ in
    both.
    """

    def __init__(self, processor: sentencepiece.SentencePieceProcessor, max_length: int):
        self.processor = processor
        super().__init__(max_length, end_id=processor.eos_id(), pad_id=processor.pad_id())

    @classmethod
    def from_folder(cls, folder: str | Path, max_length: int) -> "T5Tokenizer | T5FastTokenizer":
        """Read `spiece.model` or `tokenizer.json`, the only file that transformers 5 writes."""
        folder = Path(folder)
        path = folder / "spiece.model"
        if not os.path.isfile(path):
            if os.path.isfile(folder / "tokenizer.json"):
                return T5FastTokenizer(read_tokenizer(folder / "tokenizer.json", "Unigram"), max_length)
            raise InputError(f"T5 tokeniser folder {shown(folder)} needs spiece.model or tokenizer.json")
        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
            size = processor.get_piece_size()  # 0 or an error for an empty file
        except RuntimeError as error:
            raise InputError(f"{shown(path)} is not a sentencepiece model: {shown(error, quote=False)}") from error
        if not size or processor.eos_id() < 0 or processor.pad_id() < 0:
            raise InputError(f"{shown(path)} is no sentencepiece model of T5: it lacks pieces, </s> or <pad>")
        return cls(processor, max_length)

    def save(self, folder: Path) -> None:
        (folder / "spiece.model").write_bytes(self.processor.serialized_model_proto())

    @property
    def vocab_size(self) -> int:
        return self.processor.get_piece_size()

    def encode(self, text: str) -> list[int]:
        return self.processor.encode(text)

    def tail(self, text: str, first: int) -> str:
        # Pieces, not ids, because a piece keeps an unknown character.
        return self.processor.decode(self.processor.encode(text, out_type=str)[first:])


class T5FastTokenizer(_PaddedTokenizer):
    """T5's tokeniser from a `tokenizer.json`, with the ids of transformers' fast tokeniser."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, max_length: int):
        self.tokenizer = tokenizer
        end_id, pad_id = map(tokenizer.token_to_id, ("</s>", "<pad>"))
        if end_id is None or pad_id is None:
            raise InputError("the vocabulary of a T5 tokenizer.json lacks </s> or <pad>")
        super().__init__(max_length, end_id=end_id, pad_id=pad_id)

    @property
    def vocab_size(self) -> int:
        return _rows(self.tokenizer)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def tail(self, text: str, first: int) -> str:
        return text[self.tokenizer.encode(text, add_special_tokens=False).offsets[first][0] :]


START, END = "<|startoftext|>", "<|endoftext|>"


class CLIPTokenizer(_PaddedTokenizer):
    """Byte-level BPE of CLIP, lower-cased, like transformers' fast tokeniser."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, max_length: int, pad_token: str = END):
        # As a special token, a pad token of "!" also turns every "!" of a prompt into that id, as in training.
        tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in {START, END, pad_token}])
        self.tokenizer = tokenizer
        self.start = (tokenizer.token_to_id(START),)
        super().__init__(max_length, end_id=tokenizer.token_to_id(END), pad_id=tokenizer.token_to_id(pad_token))

    @classmethod
    def from_folder(cls, folder: str | Path, max_length: int) -> "CLIPTokenizer":
        """Read `tokenizer.json`, or `vocab.json` with `merges.txt`, and the pad token from a file beside them."""
        folder = Path(folder)
        whole, vocab, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
        if not os.path.isfile(whole) and not (os.path.isfile(vocab) and os.path.isfile(merges)):
            raise InputError(
                f"CLIP tokeniser folder {shown(folder)} needs tokenizer.json, or vocab.json and merges.txt"
            )
        try:
            if whole.is_file():
                tokenizer = read_tokenizer(whole, "BPE")
            else:
                tokenizer = _clip_bpe(*models.BPE.read_file(str(vocab), str(merges)))
        except InputError:
            raise
        except Exception as error:  # the library raises bare Exception
            reason = shown(error, quote=False)
            raise InputError(f"CLIP tokeniser files in {shown(folder)} are not readable: {reason}") from error
        missing = [token for token in (START, END) if tokenizer.token_to_id(token) is None]
        if missing:
            raise InputError(f"the vocabulary in {shown(folder)} lacks {', '.join(missing)}")
        return cls(tokenizer, max_length, _pad_token(folder, tokenizer))

    def save(self, folder: Path) -> None:
        super().save(folder)
        write_json(folder / "special_tokens_map.json", {"pad_token": self.tokenizer.id_to_token(self.pad_id)})

    @property
    def vocab_size(self) -> int:
        return _rows(self.tokenizer)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def tail(self, text: str, first: int) -> str:
        return text[self.tokenizer.encode(text, add_special_tokens=False).offsets[first][0] :]


# The normalisers of T5's, CLIP's and Llama's tokenisers. A file with other steps could grow a prompt without bound.
_NORMALIZERS = {
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Lowercase",
    "Strip",
    "Nmt",
    "Precompiled",
    "Replace",
    "Prepend",
    "Sequence",
    None,
}
_MAX_JSON = 64 * 2**20  # bytes; mT5's file has 16 MB


def read_tokenizer(path: Path, model: str) -> tokenizers.Tokenizer:
    """The tokeniser in a `tokenizer.json`, without its truncation and padding.

    Raises:
        InputError: a file that is damaged, of another kind of model, or normalises text in an unknown way.
    """
    content = read_json(path, _MAX_JSON)
    kind = (content.get("model") or {}).get("type", "BPE") if isinstance(content.get("model"), dict) else None
    if kind != model:
        raise InputError(f"{shown(path)} holds a tokeniser of type {shown(kind)}; {model} is needed")
    _check_normalizer(path, content.get("normalizer"))
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
        tokenizer.encode("a probe: \u00e9 \u732b")  # a vocabulary without its unknown token fails here
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"{shown(path)} is not readable: {shown(error, quote=False)}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _check_normalizer(path: Path, normalizer: object, depth: int = 0) -> int:
    """Count the steps of a normaliser; InputError for unknown steps and for those that could grow text without bound."""
    kind = normalizer.get("type") if isinstance(normalizer, dict) else normalizer
    steps = normalizer.get("normalizers", []) if kind == "Sequence" else []
    replaces = kind == "Replace" and len(str(normalizer.get("content"))) > 1
    known = (kind is None or isinstance(kind, str)) and kind in _NORMALIZERS  # a list has no hash
    if not known or depth > 2 or not isinstance(steps, list) or len(steps) > 16 or replaces:
        raise InputError(f"{shown(path)}: the normaliser {shown(kind)} is not one of a T5, CLIP or Llama tokeniser")
    return 1 + sum(_check_normalizer(path, step, depth + 1) for step in steps)


def _rows(tokenizer: tokenizers.Tokenizer) -> int:
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)


def _clip_bpe(vocab: dict[str, int], merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token=END, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    # English contractions, runs of letters, single digits, runs of anything else except space
    pattern = Regex(r"'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def _pad_token(folder: Path, tokenizer: tokenizers.Tokenizer) -> str:
    """The pad token: OpenAI and LAION use the end of text, the second tokenisers of Stable Diffusion use "!"."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        token = read_json(path).get("pad_token") if path.is_file() else None
        if token is not None:
            token = token.get("content") if isinstance(token, dict) else token
            if not isinstance(token, str):
                raise InputError(f"pad_token {shown(token)} of {shown(path)} must be a text")
            if tokenizer.token_to_id(token) is None:
                raise InputError(f"pad_token {shown(token)} of {shown(path)} is not in the vocabulary")
            return token
    return END
