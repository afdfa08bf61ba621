"""Captions: from files beside the videos, or from a captioner behind a local HTTP endpoint in OpenAI's form."""

import base64
import io
import json
import os
import re
import urllib.request
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from mindsora.curate.clips import Box, frames, uniform
from mindsora.data.scan import captions_beside
from mindsora.errors import InputError, shown

FRAMES, SIDE = 8, 448  # pictures of a clip that the captioner sees, and pixels of their longer side
SECONDS = 120  # that an answer may take
MAX_ANSWER = 2**20  # bytes
INSTRUCTION = (
    "These pictures are frames of one video in order of time. Describe what can be seen, from the first frame to the last: "
    "the people and things with their looks and actions, the place and its light, and how the camera moves. Begin with the "
    "content itself and do not mention frames, pictures or a video. Write one paragraph without line breaks."
)
_VERBS = (
    "depicts|captures|showcases|features|is|shows|displays|presents|consists of|takes place in|begins (?:with|inside|in)|"
    "opens (?:with|on|in)|starts with|appears to (?:be|capture|show|depict|showcase|display|feature)|"
    "appears to focus (?:closely )?on"
)
PREFIX = re.compile(rf"(?:The video (?:{_VERBS})|In the video,) ")


def stripped(caption: str) -> str:
    """A caption without a leading "The video shows " and the like, its first letter a capital; empty if nothing is left."""
    rest = (
        PREFIX.sub("", caption.strip() + " ", count=1).strip()
        if PREFIX.match(caption.strip() + " ")
        else caption.strip()
    )
    return rest[:1].upper() + rest[1:]


def measure(record: dict, root: str | os.PathLike, captioner: str, model: str, crop: Box | None) -> list[str]:
    """The captions of a clip, without prefixes; those that are empty then are left out.

    captioner: "files", or the address of an endpoint.

    Raises:
        InputError: no file with captions, no answer, or one of another form.
    """
    if captioner == "files":
        captions = captions_beside(Path(root) / record["path"])
    else:
        captions = [_asked(frames(root, record, uniform(record, FRAMES), SIDE, crop), captioner, model)]
    return [short for caption in captions if (short := stripped(" ".join(caption.split())))]


def _asked(clip: np.ndarray, address: str, model: str) -> str:
    """The captioner's answer for the pictures of a clip."""
    pictures = [{"type": "image_url", "image_url": {"url": _data_url(frame)}} for frame in clip]
    content = [*pictures, {"type": "text", "text": INSTRUCTION}]
    body = {"model": model, "messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 400}
    url = f"{address.rstrip('/')}/chat/completions"
    headers = {"Content-Type": "application/json"}
    try:
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with _direct().open(request, timeout=SECONDS) as answer:
            caption = json.loads(answer.read(MAX_ANSWER))["choices"][0]["message"]["content"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"the captioner at {shown(url)} gave no caption: {shown(error, quote=False)}") from error
    if not isinstance(caption, str):
        raise InputError(f"the captioner at {shown(url)} answered {shown(caption)}, which is no text")
    return caption


@cache
def _direct():
    """Without the proxies of the environment: the captioner is a machine of one's own."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _data_url(frame: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
