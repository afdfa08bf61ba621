"""The text that an encoder sees of a clip: one of its captions, a notice of its quality, cleaned, or dropped."""

import random

from mindsora.data.annotations import Clip
from mindsora.data.settings import VideoData
from mindsora.text.cleaning import clean_prompt

LOW, HIGH = 4.25, 5.75  # aesthetic scores up to and from which a notice is added
_LOW_WORDS = ("low", "poor", "modest", "weak", "limited", "bad", "inferior", "basic", "meagre", "lacking")
_HIGH_WORDS = (
    "high", "great", "fine", "strong", "excellent", "good", "superior", "rich", "striking", "outstanding"
)  # fmt: skip
DEFAULTS = ("a video of a scene as time passes.", "a clip that shows what happens next.", "a scene in motion.")


def draw_caption(clip: Clip, data: VideoData, rng: random.Random) -> str:
    """The caption of one sample, as the encoders see it; empty or a general sentence where it is dropped.

    The share of dropped captions is the same with and without cleaning; upstream drops none where it does not clean.
    """
    if rng.random() < data.caption_drop:
        return rng.choice(DEFAULTS) if rng.random() < data.default_caption_share else ""
    caption, notices = rng.choice(clip.captions), _notices(clip, data)
    if notices:
        caption = _with_notice(caption, rng.choice(notices), rng.random() < 0.5)
    return _seen(caption, data)


def all_captions(clip: Clip, data: VideoData) -> list[str]:
    """Every text that `draw_caption` can give for a clip, without the dropped ones."""
    notices = _notices(clip, data)
    texts = [
        _with_notice(caption, notice, first)
        for caption in clip.captions
        for notice in notices
        for first in (True, False)
    ]
    return [_seen(text, data) for text in texts or clip.captions]


def _seen(caption: str, data: VideoData) -> str:
    return clean_prompt(caption, data.keep_chinese) if data.clean_captions else caption.lower().strip()


def _notices(clip: Clip, data: VideoData) -> list[str]:
    """Sentences on a very high or very low score; none for a score between, or without one."""
    if not data.aesthetic_notice or clip.aesthetic is None:
        return []
    words = _LOW_WORDS if clip.aesthetic <= LOW else _HIGH_WORDS if clip.aesthetic >= HIGH else ()
    kind = "picture" if clip.is_picture else "video"
    return [f"a {kind} of {word} aesthetic quality." for word in words]


def _with_notice(caption: str, notice: str, first: bool) -> str:
    return f"{notice} {caption}" if first else f"{caption} {notice}"
