"""Tokenisers against the sentencepiece library and transformers (numbers in tests/golden/tokenizers): equal ids."""

import json
import shutil

import numpy as np
import pytest
import tokenizers
from golden_file import FOLDER

from mindsora.errors import InputError
from mindsora.text.tokenizers import CLIPTokenizer, T5Tokenizer

T5_FOLDERS = ("t5_tiny", "mt5_tiny")
PADS = ("eos", "bang")


def expected(file):
    return json.loads((FOLDER / "tokenizers" / file).read_text(encoding="utf-8"))


def clip_folder(folder, pad):
    """A copy of the tiny CLIP tokeniser whose special_tokens_map names the pad token, as published folders do."""
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(FOLDER / "tokenizers/clip_tiny" / name, folder)
    token = expected(f"clip_tiny/expected_{pad}_pad.json")["pad_token"]
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": token}))
    return folder


@pytest.mark.parametrize("name", T5_FOLDERS)
@pytest.mark.parametrize("length", [32, 512])
def test_t5_ids_match_sentencepiece(name, length):
    golden = expected(f"{name}/expected.json")
    tokenize = T5Tokenizer.from_folder(FOLDER / "tokenizers" / name, max_length=length)
    ids, mask = tokenize([case["text"] for case in golden["cases"]])
    assert ids.shape == mask.shape == (len(golden["cases"]), length) and ids.dtype == mask.dtype == np.int32
    for row, row_mask, case in zip(ids, mask, golden["cases"]):
        if length == 32:
            assert row.tolist() == case["ids_32"] and row_mask.tolist() == case["mask_32"], case["text"]
        else:
            assert row[: row_mask.sum()].tolist() == case["ids"], case["text"]
            assert (row[row_mask.sum() :] == golden["pad_id"]).all()


@pytest.mark.parametrize("pad", PADS)
def test_clip_ids_match_transformers(pad, tmp_path):
    golden = expected(f"clip_tiny/expected_{pad}_pad.json")
    tokenize = CLIPTokenizer.from_folder(clip_folder(tmp_path, pad), max_length=77)
    ids, mask = tokenize([case["text"] for case in golden["cases"]])
    for row, row_mask, case in zip(ids, mask, golden["cases"]):
        assert row.tolist() == case["ids_77"] and row_mask.tolist() == case["mask_77"], case["text"]


def test_clip_from_tokenizer_json_and_tokenizer_config(tmp_path):
    """A saved tokenizer.json gives the same ids; here it also requests truncation, padding and template tokens."""
    golden = expected("clip_tiny/expected_bang_pad.json")
    saved = CLIPTokenizer.from_folder(FOLDER / "tokenizers/clip_tiny", max_length=77).tokenizer
    saved.enable_truncation(5)
    saved.enable_padding(length=9)
    saved.post_processor = tokenizers.processors.RobertaProcessing(
        ("<|endoftext|>", golden["eos_id"]), ("<|startoftext|>", golden["bos_id"])
    )
    saved.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "!", "lstrip": False}}))
    ids, _ = CLIPTokenizer.from_folder(tmp_path, max_length=77)([case["text"] for case in golden["cases"]])
    assert ids.tolist() == [case["ids_77"] for case in golden["cases"]]


def test_clip_pads_with_end_of_text_by_default():
    ids, mask = CLIPTokenizer.from_folder(FOLDER / "tokenizers/clip_tiny", max_length=77)([""])
    assert ids[0].tolist() == [1712] + 76 * [1713] and mask[0].tolist() == [1, 1] + 75 * [0]


TOKENIZERS = ((T5Tokenizer, "t5_tiny"), (T5Tokenizer, "mt5_tiny"), (CLIPTokenizer, "clip_tiny"))


@pytest.mark.parametrize("make, folder", TOKENIZERS)
def test_truncated_names_the_text_that_was_cut(make, folder):
    text = "the statement is evaluated again, and the value of each expression is assigned"
    for max_length in range(6, 15):
        tokenize = make.from_folder(FOLDER / "tokenizers" / folder, max_length)
        tail = tokenize.truncated(text)
        assert tail and text.endswith(tail)
    kept = text.removesuffix(tail)  # 14 ids end between two words: the encoder sees exactly the kept text
    np.testing.assert_array_equal(tokenize([kept])[0], tokenize([text])[0])
    assert tokenize.truncated(kept) == tokenize.truncated("") == ""


@pytest.mark.parametrize("make, folder", TOKENIZERS)
def test_truncated_text_keeps_unknown_and_wide_characters(make, folder):
    tail = make.from_folder(FOLDER / "tokenizers" / folder, max_length=12).truncated("café " * 9 + "Ende")
    assert tail.endswith("café café Ende")


@pytest.mark.parametrize("make, files", [(T5Tokenizer, "spiece.model"), (CLIPTokenizer, "merges.txt")])
def test_missing_or_corrupt_files(make, files, tmp_path):
    with pytest.raises(InputError, match=files):
        make.from_folder(tmp_path, 16)
    for name in (files, "vocab.json"):
        (tmp_path / name).write_text("not a tokeniser")
    with pytest.raises(InputError, match="sentencepiece model|not readable"):
        make.from_folder(tmp_path, 16)


def test_bad_arguments(tmp_path):
    folder = FOLDER / "tokenizers/t5_tiny"
    with pytest.raises(InputError, match="max_length = 1"):
        T5Tokenizer.from_folder(folder, max_length=1)
    with pytest.raises(InputError, match="list of prompts"):
        T5Tokenizer.from_folder(folder, max_length=8)("one prompt")
    clip = clip_folder(tmp_path, "eos")
    (clip / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<nonsense>"}))
    with pytest.raises(InputError, match="<nonsense>"):
        CLIPTokenizer.from_folder(clip, max_length=8)


def saved_t5(folder):
    """A T5 tokeniser as transformers 5 saves it: tokenizer.json alone. Returns transformers' own."""
    from transformers import T5TokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [
        (text, -3.0 - i / 100)
        for i, text in enumerate(["\u2581a", "\u2581cat", "s", "\u2581caf", "\u00e9", "\u732b", "t"])
    ]
    theirs = T5TokenizerFast(vocab=pieces, extra_ids=3)
    theirs.save_pretrained(folder)
    assert not (folder / "spiece.model").exists() and (folder / "tokenizer.json").exists()
    return theirs


def test_t5_from_tokenizer_json_alone(tmp_path):
    theirs = saved_t5(tmp_path)
    ours = T5Tokenizer.from_folder(tmp_path, max_length=16)
    texts = ["a cat", "a  cats", "caf\u00e9 \u732b", "\u0441\u043d\u0435\u0433", "\ufb01 \u00bd", ""]
    for text, row in zip(texts, ours(texts)[0]):
        assert row.tolist() == theirs(text, padding="max_length", max_length=16, truncation=True)["input_ids"], text
    assert ours.vocab_size == len(theirs)
    assert ours.truncated("a cat " * 20) == " ".join(["cat"] + ["a cat"] * 12) and ours.truncated("a cat") == ""


def test_vocab_size_is_what_the_embedding_needs():
    for name in T5_FOLDERS:
        tokenize = T5Tokenizer.from_folder(FOLDER / "tokenizers" / name, max_length=32)
        assert tokenize.vocab_size == tokenize.processor.get_piece_size()
    clip = CLIPTokenizer.from_folder(FOLDER / "tokenizers/clip_tiny", max_length=77)
    assert clip.vocab_size == 1 + max(clip.tokenizer.get_vocab().values())


@pytest.mark.parametrize(
    "file, content, words",
    [
        ("spiece.model", "", "not a sentencepiece model|lacks pieces"),
        ("tokenizer.json", json.dumps({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "?"}}), "WordLevel"),
        ("tokenizer.json", json.dumps({"model": {"type": "Unigram", "vocab": "no"}}), "not readable"),
        (
            "tokenizer.json",
            json.dumps({
                "model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0},
                "normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000},
            }),
            "normaliser 'Replace'",
        ),
        (
            "tokenizer.json",
            json.dumps({"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0}, "normalizer": [[]]}),
            "the normaliser '\\[\\[\\]\\]' is not one of",
        ),
        ("tokenizer.json", "[1]", "JSON object"),
    ],
)  # fmt: skip
def test_hostile_t5_files(tmp_path, file, content, words):
    (tmp_path / file).write_text(content)
    with pytest.raises(InputError, match=words):
        T5Tokenizer.from_folder(tmp_path, max_length=8)


@pytest.mark.parametrize("token", [7, ["!"], {"content": 3}, {}])
def test_pad_tokens_of_other_types(tmp_path, token):
    clip_folder(tmp_path, "bang")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": token}))
    with pytest.raises(InputError, match="pad_token .* must be a text"):
        CLIPTokenizer.from_folder(tmp_path, max_length=77)
