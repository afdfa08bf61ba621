"""Make the nano model's two tokenisers from procedural captions (seconds on one core).

    python recipes/nano/make_tokenizers.py [FOLDER]        default: mindsora/weights/nano

Writes `tokenizer/` (sentencepiece unigram in T5's layout: pad 0, eos 1, unk 2) and `tokenizer_2/` (byte-level BPE in
CLIP's layout: 256 bytes, 256 bytes with the word-end mark, merges, start, end). Both spell any English text; words of
the captions are one token each. The same library versions give the same files.
"""

import json
import re
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import sentencepiece as spm
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from mindsora.data.toy.procedural import draw

CAPTIONS = 20_000
PIECES = 256  # at most; the words and printable ASCII need fewer
MAX_LENGTH = 32  # tokens, end included, for both tokenisers
PRINTABLE = "".join(map(chr, range(33, 127)))
BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]  # the GPT-2 byte alphabet keeps these as they are
START, END = "<|startoftext|>", "<|endoftext|>"


def corpus() -> list[str]:
    """Training captions, in lower case as prompt cleaning leaves them."""
    return [draw(np.random.RandomState([index, 0])).caption.lower() for index in range(CAPTIONS)]


def write_sentencepiece(captions: list[str], folder: Path):
    # Every word occurs equally often, bare and before each mark. With real frequencies the fitted pieces split words.
    words = sorted({word for text in captions for word in re.findall(r"\w+", text)})
    lines = [word + mark for word in words for mark in ("", ",", ".")] * 50
    model = BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="unigram",
        vocab_size=PIECES,
        normalization_rule_name="nmt_nfkc",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece="<pad>",
        required_chars=PRINTABLE,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    write(folder / "spiece.model", model.getvalue())
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "T5Tokenizer",
            "model_max_length": MAX_LENGTH,
            "extra_ids": 0,
            "pad_token": "<pad>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
        },
    )


def write_bpe(captions: list[str], folder: Path):
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.train_from_iterator(
        captions, trainers.BpeTrainer(vocab_size=10_000, show_progress=False, end_of_word_suffix="</w>")
    )  # merges end when every word is one token
    merges = [
        merge if isinstance(merge, list) else merge.split(" ")
        for merge in json.loads(tokenizer.to_str())["model"]["merges"]
    ]

    alphabet = [chr(byte) for byte in BYTES] + [chr(256 + n) for n in range(256 - len(BYTES))]
    pieces = alphabet + [f"{symbol}</w>" for symbol in alphabet] + ["".join(pair) for pair in merges] + [START, END]
    write_json(folder / "vocab.json", {piece: number for number, piece in enumerate(pieces)})
    write(folder / "merges.txt", "\n".join(["#version: 0.2", *map(" ".join, merges), ""]).encode())
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_LENGTH, "do_lower_case": True, **special},
    )


def write_json(path: Path, content: dict):
    write(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def write(path: Path, content: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "mindsora/weights/nano")
    texts = corpus()
    write_sentencepiece(texts, target / "tokenizer")
    write_bpe(texts, target / "tokenizer_2")
    print(f"{target}/tokenizer, {target}/tokenizer_2: from {len(set(texts))} different captions")
