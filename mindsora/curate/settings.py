"""Settings of a curation: `Measures` determine the scores, `Rules` decide over them.

The numbers without a comment are the paper's (arXiv 2412.00131, section 4).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any

from mindsora.config import from_dict
from mindsora.errors import InputError, shown
from mindsora.ranges import Range, check_fields

Share = Annotated[float, Range(0, 1)]
Frames = Annotated[int, Range(1, 100_000)]
Level = Annotated[float, Range(0, 1e6)]
CUT_JUDGES = ("scenedetect", "transnetv2", "lpips")
MOTION_JUDGES = ("flow", "lpips")


class _Section:
    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class Slice(_Section):
    """Spans into which a file is divided, in seconds."""

    seconds: Annotated[float, Range(0.1, 600)] = 16.0


@dataclass(frozen=True)
class Cuts(_Section):
    """Jump cuts. skip: LPIPS compares every skip-th frame. max_frames: longer parts are divided again."""

    judge: str = "scenedetect"
    skip: Annotated[int, Range(1, 100)] = 4  # the paper leaves it open; LPIPS grows with it
    max_frames: Frames = 512

    def __post_init__(self):
        super().__post_init__()
        _one_of("cuts.judge", self.judge, CUT_JUDGES)


@dataclass(frozen=True)
class Motion(_Section):
    """Motion between every skip-th frame."""

    judge: str = "flow"
    skip: Annotated[int, Range(1, 100)] = 4

    def __post_init__(self):
        super().__post_init__()
        _one_of("motion.judge", self.judge, MOTION_JUDGES)


@dataclass(frozen=True)
class Text(_Section):
    """Text boxes. per_second: frames looked at. confidence: of a box that counts, as the recogniser states it."""

    per_second: Annotated[float, Range(0.01, 100)] = 1.0
    confidence: Share = 0.5  # ours: RapidOCR's own default for words


@dataclass(frozen=True)
class Lpips(_Section):
    """The VGG16 file of LPIPS."""

    backbone: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Measures:
    """What determines the scores, by stage."""

    slice: Slice = field(default_factory=Slice)
    cuts: Cuts = field(default_factory=Cuts)
    motion: Motion = field(default_factory=Motion)
    text: Text = field(default_factory=Text)
    lpips: Lpips = field(default_factory=Lpips)


@dataclass(frozen=True)
class LengthRule(_Section):
    """Frames of the source file that a clip needs."""

    min: Frames = 32


@dataclass(frozen=True)
class Bounds(_Section):
    """Both bounds belong to the clips that stay. None: the judge's own, MOTION_BOUNDS of mindsora.curate.rules."""

    min: Level | None = None
    max: Level | None = None


@dataclass(frozen=True)
class PictureRule(_Section):
    """Shares of a clip's frames that may be black or repeat the frame before for half a second, and flicker in levels."""

    black: Share = 0.1  # ours, as all of this rule: upstream has no such step
    frozen: Share = 0.3
    flicker: Level = 2.0  # of 255; real clips have up to 0.8, shaken and flickering ones 2.4 and more
    letterbox: Share = 0.5  # share of a frame that bars may cover; they are cropped


@dataclass(frozen=True)
class TextRule(_Section):
    """The band of each side in which text is cropped, as a share of the side's length."""

    limit: Annotated[float, Range(0, 0.45)] = 0.2


@dataclass(frozen=True)
class AtLeast(_Section):
    min: Annotated[float, Range(-1e6, 1e6)] = 4.75


@dataclass(frozen=True)
class Above(_Section):
    above: Annotated[float, Range(-1e6, 1e6)] = 0.0


@dataclass(frozen=True)
class DuplicateRule(_Section):
    """Mean number of the 64 bits by which the hashes of two clips may differ and still name one clip."""

    distance: Annotated[int, Range(0, 16)] = 12  # ours: copies cut by 5 % differ by up to 11, other shots by 26


@dataclass(frozen=True)
class AtMost(_Section):
    max: Share = 0.5  # ours


@dataclass(frozen=True)
class LicenceRule(_Section):
    required: bool = False


@dataclass(frozen=True)
class Rules:
    """What decides over the scores, by step."""

    length: LengthRule = field(default_factory=LengthRule)
    motion: Bounds = field(default_factory=Bounds)
    picture: PictureRule = field(default_factory=PictureRule)
    text: TextRule = field(default_factory=TextRule)
    aesthetic: AtLeast = field(default_factory=AtLeast)
    technical: Above = field(default_factory=Above)
    duplicates: DuplicateRule = field(default_factory=DuplicateRule)
    watermark: AtMost = field(default_factory=AtMost)
    unsafe: AtMost = field(default_factory=AtMost)
    licence: LicenceRule = field(default_factory=LicenceRule)


def changed(measures: Measures, rules: Rules, assignments: Sequence[str]) -> tuple[Measures, Rules]:
    """The settings with `section.key=value` applied.

    Raises:
        InputError: no such section or key, or a value of another type or out of its range.
    """
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        section, dot, key = name.partition(".")
        if not (equals and dot):
            raise InputError(f"--set {shown(assignment)}: write section.key=value, such as motion.max=0.25")
        if _has(rules, section, key):
            rules = _with(rules, section, key, text)
        elif _has(measures, section, key):
            measures = _with(measures, section, key, text)
        else:
            raise InputError(f"--set {shown(name)}: no such setting; known: {', '.join(_names(rules, measures))}")
    return measures, rules


def fingerprint(content: Any) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def section_of(cls: type, content: dict) -> Any:
    """`Measures` or `Rules` from a JSON object, as `asdict` writes them."""
    kinds = {f.name: f.default_factory for f in fields(cls)}
    return cls(**{name: from_dict(kinds[name], values) for name, values in content.items()})


def _has(settings: Any, section: str, key: str) -> bool:
    return key in asdict(settings).get(section, {})


def _with(settings: Any, section: str, key: str, text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    old = getattr(settings, section)
    return replace(settings, **{section: from_dict(type(old), asdict(old) | {key: value})})


def _names(*settings: Any) -> list[str]:
    return sorted(f"{section}.{key}" for one in settings for section, keys in asdict(one).items() for key in keys)


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} = {shown(value)}: must be one of {', '.join(choices)}")
