"""Prompt cleaning and templates equal upstream's, string by string (tests/golden/*.json)."""

import json

import pytest
from golden_file import FOLDER

from mindsora.errors import InputError
from mindsora.text.cleaning import clean_caption, clean_prompt, lost_words
from mindsora.text.templates import TEMPLATES, PromptTemplate, template_for

PROMPTS = json.loads((FOLDER / "prompt_cleaning.json").read_text(encoding="utf-8"))
# "input", "twice" and "keep_chinese" in one file are "text", "clean" and "clean_keep_chinese" in the other
CAPTIONS = [
    {"text": case["input"], "once": case["once"], "clean": case["twice"], "clean_keep_chinese": case["keep_chinese"]}
    for case in json.loads((FOLDER / "caption_clean.json").read_text(encoding="utf-8"))["cases"]
]
CASES = PROMPTS["cases"] + CAPTIONS
IDS = [case["text"].strip()[:30] for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_cleaning_matches_upstream(case):
    assert clean_caption(case["text"]) == case["once"]
    assert clean_prompt(case["text"]) == case["clean"]
    assert clean_prompt(case["text"], keep_chinese=True) == case["clean_keep_chinese"]


def test_the_second_pass_matters():
    assert any(case["once"] != case["clean"] for case in CASES)


def spaced(text):
    """White space as the cleaner and T5's normaliser define it."""
    return " ".join(text.split())


@pytest.mark.parametrize("golden", PROMPTS["templates"], ids=lambda golden: golden["version"])
def test_templates_match_upstream(golden):
    template = template_for({"v1.2": "v1.2_npu"}.get(golden["version"], golden["version"]))  # what the numbers measure
    plain = PromptTemplate(template.positive, template.negative, cleaned=False)
    positive, negative = plain.apply(golden["prompt"], golden["negative"])
    assert spaced(positive) == spaced(golden["positive_out"])
    assert spaced(negative) == spaced(golden["negative_out"])
    assert spaced(plain.apply(golden["prompt"])[1]) == spaced(golden["negative_out_default"])
    cleaned = PromptTemplate(template.positive, template.negative, cleaned=True).apply(golden["prompt"])
    assert cleaned == (golden["positive_clean"], golden["negative_clean_default"])


def test_which_versions_clean():
    assert TEMPLATES["v1.5"].apply("A Cat, sitting.")[0] == "high quality, a cat, sitting."
    assert TEMPLATES["v1.3"].apply("A Cat, sitting.")[0] == "high quality, high aesthetic, A Cat, sitting."


@pytest.mark.parametrize(
    "prompt, text",
    [
        ("A cat, in the Rain", "masterpiece , best quality , ultra-detailed , a cat, in the rain."),
        ("a Dog runs.", "masterpiece , best quality , ultra-detailed , a dog runs"),  # the two dots are punctuation
    ],
)
def test_the_plain_template_of_v1_2(prompt, text):
    """Numbers of upstream's sampler of v1.2."""
    assert template_for("v1.2").apply(prompt)[0] == text


def test_nano_is_the_plain_template():
    assert template_for("nano").apply("A red {} circle") == ("a red circle", "")


def test_unknown_version():
    with pytest.raises(InputError, match="'v9'.*v1.5"):
        template_for("v9")


@pytest.mark.parametrize(
    "text", ["x" * 120_000, "-" * 120_000, "a1" * 60_000, "a.b" * 40_000, " " * 120_000 + ".", "a<b>" * 30_000]
)
def test_long_words_take_no_time(text):
    """Rules that searched for the end of a word from each of its characters took minutes for one such word."""
    assert len(clean_prompt(f"a cat {text} sits")) < 5000  # pytest's time limit ends a run of minutes


def test_a_long_word_is_dropped_and_its_neighbours_stay():
    assert clean_prompt("a cat " + "x" * 1001 + " sits") == "a cat sits"
    assert "x" * 1000 in clean_prompt("a cat " + "x" * 1000 + " sits")


def test_lost_words():
    assert lost_words("C3PO walks", clean_prompt("C3PO walks")) == ["c3po"]
    assert lost_words("a cat \u8d70\u8def", clean_prompt("a cat \u8d70\u8def")) == ["\u8d70\u8def"]
    assert lost_words("A cat's hat - red!", clean_prompt("A cat's hat - red!")) == []
