"""Caption cleaning as Open-Sora Plan does it: the rules of DeepFloyd IF's caption cleaner, in the same order.

The cleaner removes numbers in captions, links, file names and shop phrases, because the released models were trained on
text without them. The steps depend on each other, so their order affects the result.
"""

import html
import re
from urllib.parse import unquote_plus

import ftfy
from bs4 import BeautifulSoup

# Several rules search from every character of a word to its end, so their time grows with the square of the word's
# length. No word or link of a real caption is as long as this, and no encoder reads as many white spaces.
LONGEST_WORD = 1000
_TOO_LONG = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")
_LONG_SPACE = re.compile(r"(\s{8})\s+")

_IMAGE_TYPES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
_BARE_LINK = r"[a-z0-9.\-]+\.(?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"  # a query string stays behind

# CJK strokes, phonetic extensions, enclosed and compatibility forms, extension A, hexagrams
_CJK_SYMBOLS = "[\u31c0-\u31ef\u31f0-\u31ff\u3200-\u32ff\u3300-\u33ff\u3400-\u4dbf\u4dc0-\u4dff]+"
_IDEOGRAPHS = "[\u4e00-\u9fff]+"
# Unicode's dash punctuation, which does not include the minus sign
_DASHES = (
    "[-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0"
    "\ufe31\ufe32\ufe58\ufe63\uff0d]+"
)


def _rules(*pairs: tuple[str, str]) -> tuple[tuple[re.Pattern, str], ...]:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


_LINKS = _rules(
    (rf"\b(?:https?:(?:/{{1,3}}|[a-z0-9%])|{_BARE_LINK})", ""),
    (rf"\b(?:www:(?:/{{1,3}}|[a-z0-9%])|{_BARE_LINK})", ""),
)

_MARKS = _rules(
    (_DASHES, "-"),
    ("[`´«»“”¨]", '"'),
    ("[‘’]", "'"),
    (r"&quot;?", ""),
    (r"&amp", ""),
    (r"\d{1,3}(?:\.\d{1,3}){3}", " "),  # IPv4 address
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),  # a backslash and an n
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.(?:{_IMAGE_TYPES})", ""),  # file name
    (r"[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~()\[\]{}|\\/*]+", " "),
    (r"\s+\.\s+", " "),
)

_JUNK = _rules(
    (r"\b[a-z]{1,3}\d{3,15}\b", ""),  # jc6640
    (r"\b[a-z]+\d+[a-z]+\b", ""),  # jc6640vc
    (r"\b\d+[a-z]+\d+\b", ""),  # 6640vc231
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{_IMAGE_TYPES})\b(?:\simages?\b)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-z]+\d+[a-z]+\d+[a-z\d]*\b", " "),  # j2d1a2a
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),  # 1920x1080, also with the Cyrillic letter and the sign
)

_SPACING = _rules(
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
)

_EDGES = _rules(
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)


def clean_caption(text: str, keep_chinese: bool = False) -> str:
    """One pass of the cleaner.

    Args:
        text: a caption or prompt.
        keep_chinese: keep CJK ideographs, for encoders that know them (mT5, UMT5). Upstream v1.5 has this option in
            its data set but never passes it on; here it takes effect.

    Returns:
        Lower-case text, possibly empty, without words of more than LONGEST_WORD characters.
    """
    text = unquote_plus(str(text)).strip().lower().replace("<person>", "person")
    text = _apply(_LINKS, _bounded(text))
    text = _bounded(BeautifulSoup(text, features="html.parser").text)  # again: removing a tag may join words
    text = re.sub(r"@\w+\b", "", text)
    text = re.sub(_CJK_SYMBOLS, "", text)
    if not keep_chinese:
        text = re.sub(_IDEOGRAPHS, "", text)
    text = _apply(_MARKS, text)
    if len(re.findall("[-_]", text)) > 3:  # this-is-my-cute-cat
        text = re.sub("[-_]", " ", text)
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    text = _apply(_SPACING, _apply(_JUNK, text))
    return _apply(_EDGES, text).strip()  # strip last: this pass keeps a mark next to an outer space


def clean_prompt(text: str, keep_chinese: bool = False) -> str:
    """Run the cleaner twice, as v1.5 does in training and sampling: the second pass cleans what the first exposed."""
    return clean_caption(clean_caption(text, keep_chinese), keep_chinese)


def lost_words(text: str, cleaned: str) -> list[str]:
    """Words of a text that its cleaned form lacks, in order, each once."""
    kept = set(_words(cleaned))
    return [word for word in dict.fromkeys(_words(text)) if word not in kept]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _bounded(text: str) -> str:
    return _LONG_SPACE.sub(r"\1", _TOO_LONG.sub(" ", text))


def _apply(rules: tuple[tuple[re.Pattern, str], ...], text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text
