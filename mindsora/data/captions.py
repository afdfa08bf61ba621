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
    caption = rng.choice(clip.captions)
    if data.aesthetic_notice and clip.aesthetic is not None:
        caption = _with_notice(caption, clip, rng)
    return clean_prompt(caption, data.keep_chinese) if data.clean_captions else caption.lower().strip()


def _with_notice(caption: str, clip: Clip, rng: random.Random) -> str:
    """The caption with a sentence on a very high or very low score, before or after it."""
    words = _LOW_WORDS if clip.aesthetic <= LOW else _HIGH_WORDS if clip.aesthetic >= HIGH else ()
    if not words:
        return caption
    kind = "picture" if clip.is_picture else "video"
    notice = f"a {kind} of {rng.choice(words)} aesthetic quality."
    return f"{notice} {caption}" if rng.random() < 0.5 else f"{caption} {notice}"
