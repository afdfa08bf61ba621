"""Words in a clip, read by RapidOCR (PP-OCR networks inside the package), where it is installed."""

from difflib import SequenceMatcher
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np

from mindsora.evaluate.measures import Judge

STOCK = (
    "shutterstock istock gettyimages alamy dreamstime depositphotos pond5 123rf videohive storyblocks adobestock stock "
    "watermark preview sample demo trial copyright"
).split()
NEAR = 0.8  # share of equal letters: OCR misreads one letter in a word


def installed() -> bool:
    """Whether the package is there."""
    return find_spec("rapidocr") is not None


def judge(beside: Judge) -> Judge:
    """The judge that reads words where `beside` gives no evidence."""
    return Judge(f"{beside.name}; RapidOCR", version("rapidocr"), "model")


@cache
def _reader():
    from rapidocr import RapidOCR

    return RapidOCR(params={"Global.log_level": "error"})


def read(picture: np.ndarray) -> list[str]:
    """The lines of text in a picture (H, W, 3) uint8, in lower case."""
    return [text.lower() for text in _reader()(np.ascontiguousarray(picture[..., ::-1])).txts or ()]  # BGR


def stock_words(video: np.ndarray) -> list[str]:
    """The words of STOCK in the temporal median of a clip (T, H, W, 3) uint8; what moves is blurred there."""
    lines = read(np.median(video, axis=0).astype(np.uint8))
    return [word for line in lines for word in STOCK if _has(line, word)]


def _has(line: str, word: str) -> bool:
    letters = "".join(character for character in line if character.isalnum())
    spans = [letters[at : at + len(word)] for at in range(max(1, len(letters) - len(word) + 1))]
    return any(SequenceMatcher(None, span, word).ratio() >= NEAR for span in spans)
