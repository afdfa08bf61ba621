"""The table of stages: what each computes, with which version, settings and resources.

A stage is a function from a batch of records to a batch. The first three make records (a file, its slices, their parts);
each of the others adds a score. A record that fails stays, with the reason.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from mindsora.curate import captions, hashes, judges, motion, picture, rules, spans, text_boxes
from mindsora.curate.clips import Box
from mindsora.curate.cuts import judge_of
from mindsora.curate.judges import JudgeFile
from mindsora.curate.settings import Measures, Rules, fingerprint
from mindsora.errors import InputError

NEEDED = {judged: f"{name} or FILE.py@SHA256" for name, judged in judges.IN_PACKAGES.items()}


@dataclass(frozen=True)
class Plan:
    """What a curation was asked for.

    Attributes:
        root, output: folders of the media and of the results.
        judges: by stage.
        captioner: "files", the address of an endpoint in OpenAI's form, or None; `model`: the name it knows.
        licence, source: of every record of this folder, as the user states them.
        seconds: that one stage may take for one clip.
    """

    root: str
    output: str
    measures: Measures = field(default_factory=Measures)
    rules: Rules = field(default_factory=Rules)
    judges: dict[str, JudgeFile] = field(default_factory=dict)
    captioner: str | None = None
    model: str = ""
    licence: str = ""
    source: str = ""
    seconds: float = 300.0

    @property
    def skipped(self) -> dict[str, str]:
        """The stages without a judge, each with what it needs."""
        needs = {
            name: f"--judge {name}={NEEDED.get(name, 'FILE.py@SHA256')}"
            for name in judges.SIGHT
            if name not in self.judges
        }
        return needs | ({} if self.captioner else {"captions": "--captions files, or the address of a captioner"})


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        work: (record, plan, crop) to the score, or to the list of records where `splits`.
        judge: (plan) to the name and version of what computes it.
        settings: (plan) to the JSON values that its result depends on.
        version: rises when the same input gives another result.
        batch: clips of one call; more than one are worked on in threads, for stages that wait for others.
        cpus: cores of one call.
    """

    name: str
    work: Callable[[dict, Plan, Box | None], Any]
    judge: Callable[[Plan], str]
    settings: Callable[[Plan], Any]
    version: int = 1
    splits: bool = False
    batch: int = 1
    cpus: float = 1.0

    def __call__(self, batch: list[dict], plan: Plan) -> list[dict]:
        """Work on a batch of records. A record that failed before passes unchanged."""
        if self.batch == 1:
            done = [self._done(record, plan) for record in batch]
        else:
            with ThreadPoolExecutor(self.batch) as threads:
                done = list(threads.map(lambda record: self._done(record, plan), batch))
        return [record for records in done for record in records]

    def failed(self, record: dict, plan: Plan, message: str) -> dict:
        """The record with the reason why this stage has no result."""
        if self.splits:
            return record | {"failed": {"stage": self.name, "message": message}}
        return self._scored(record, plan, {"failed": message})

    def _done(self, record: dict, plan: Plan) -> list[dict]:
        if "failed" in record:
            return [record]
        try:
            result = self.work(record, plan, self._crop(record, plan))
        except InputError as error:
            return [self.failed(record, plan, str(error))]
        return result if self.splits else [self._scored(record, plan, {"value": result, "judge": self.judge(plan)})]

    def _scored(self, record: dict, plan: Plan, score: dict) -> dict:
        crop = self._crop(record, plan)
        score |= {"crop": list(crop)} if crop else {}
        return record | {"scores": record["scores"] | {self.name: score}}

    def _crop(self, record: dict, plan: Plan) -> Box | None:
        """What the earlier stages leave of the clip's frames."""
        return None if self.splits else rules.crop_of(record, plan.rules, rules.SEES.get(self.name))


def _judged(name: str) -> Stage:
    def work(record, plan, crop):
        return judges.measure(record, plan.root, name, plan.judges[name], crop)

    def settings(plan):
        return [plan.judges[name].sha256 or plan.judges[name].path]

    return Stage(name, work, lambda plan: judges.version_of(plan.judges[name]), settings)


def _recheck(record: dict, plan: Plan, crop: Box | None) -> float:
    """Motion of the cropped clip: subtitles move too. Without a crop it is the first score."""
    if crop is None:
        return record["scores"]["motion"]["value"]
    return motion.measure(record, plan.root, plan.measures, crop)


def _motion_settings(plan: Plan) -> Any:
    return asdict(plan.measures.motion), _backbone(plan, plan.measures.motion.judge)


def _backbone(plan: Plan, judge: str) -> Any:
    return asdict(plan.measures.lpips) if judge == "lpips" else None


def _motion_judge(plan: Plan) -> str:
    return "lpips vgg16" if plan.measures.motion.judge == "lpips" else "flow farneback"


SPANS = (
    Stage(
        "probe",
        lambda record, plan, crop: spans.probe(record, plan.root, plan.measures),
        lambda plan: "pyav",
        lambda plan: None,
        splits=True,
    ),
    Stage(
        "slice",
        lambda record, plan, crop: spans.slices(record, plan.root, plan.measures),
        lambda plan: "frames",
        lambda plan: asdict(plan.measures.slice),
        splits=True,
    ),
    Stage(
        "cuts",
        lambda record, plan, crop: spans.parts(record, plan.root, plan.measures),
        lambda plan: judge_of(plan.measures),
        lambda plan: (asdict(plan.measures.cuts), _backbone(plan, plan.measures.cuts.judge)),
        splits=True,
    ),
)
SCORES = (
    Stage(
        "motion",
        lambda record, plan, crop: motion.measure(record, plan.root, plan.measures, crop),
        _motion_judge,
        _motion_settings,
    ),
    Stage(
        "picture",
        lambda record, plan, crop: picture.measure(record, plan.root, plan.measures),
        lambda plan: "luma",
        lambda plan: None,
    ),
    Stage(
        "text",
        lambda record, plan, crop: text_boxes.measure(record, plan.root, plan.measures, crop),
        lambda plan: "rapidocr",
        lambda plan: asdict(plan.measures.text),
    ),
    _judged("aesthetic"),
    _judged("technical"),
    Stage("recheck", _recheck, _motion_judge, _motion_settings),
    Stage(
        "hashes",
        lambda record, plan, crop: hashes.measure(record, plan.root, plan.measures, crop),
        lambda plan: "dhash",
        lambda plan: None,
    ),
    _judged("watermark"),
    _judged("unsafe"),
    Stage(
        "captions",
        lambda record, plan, crop: captions.measure(record, plan.root, plan.captioner, plan.model, crop),
        lambda plan: plan.model or plan.captioner,
        lambda plan: (plan.captioner, plan.model),
        batch=8,
    ),
)
BEFORE_DUPLICATES = SCORES[:-1]  # captions are dear: they are made for clips that no other clip repeats


def wanted(plan: Plan) -> list[Stage]:
    """The stages of a plan in order, without those that lack a judge."""
    return [stage for stage in (*SPANS, *SCORES) if stage.name not in plan.skipped]


def key_of(stage: Stage, plan: Plan) -> str:
    """Name of the stage's results: it changes with the version and the settings of the stage and of those it builds on."""
    chain = SPANS[: SPANS.index(stage) + 1] if stage.splits else (*SPANS, stage)
    content = [(one.name, one.version, one.settings(plan)) for one in chain]
    return f"{stage.name}-{fingerprint(content)}"
