"""Damaged files of an evaluation are read or refused by name: items, prompts, results, reports, answers."""

import json

import numpy as np
import pytest
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st

from mindsora.errors import InputError
from mindsora.evaluate import report, vbench
from mindsora.evaluate.evaluation import Asked
from mindsora.evaluate.items import Item, read_items
from mindsora.evaluate.measures import Clip
from mindsora.evaluate.running import judge

pytestmark = pytest.mark.full
fuzzed = fuzz(80)
paths = st.lists(st.integers(0, 99), min_size=1, max_size=5)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
values = st.recursive(
    leaves | st.sampled_from([10**400, -(10**20), "../x", "missing"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def edited(content, path, value):
    """A copy with the value that a path of numbers leads to replaced, in objects and lists."""
    content = inner = json.loads(json.dumps(content))
    for step, number in enumerate(path):
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        if not keys:
            break
        key = keys[number % len(keys)]
        if step == len(path) - 1 or not isinstance(inner[key], (dict, list)):
            inner[key] = value
            break
        inner = inner[key]
    return content


def refused_or_read(reader, *arguments):
    try:
        return reader(*arguments)
    except InputError as error:
        assert len(str(error)) < 4000 and str(error).isprintable(), str(error)[:500]


ITEMS = {"provenance": "x", "items": [{"name": "a", "prompts": ["p"], "seed": 1, "facts": {"k": [1]}, "group": "g"}]}
PROMPTS = [
    {"prompt_en": "a", "dimension": ["scene"], "auxiliary_info": {"scene": {"scene": {"scene": "alley"}}}},
    {"prompt_en": "b", "dimension": ["color", "scene"], "auxiliary_info": {"color": {"color": "red"}}},
]
RESULTS = {
    name: [0.5, [{"video_path": f"/v/p-{n}.mp4", "video_results": 0.5} for n in range(2)]]
    for name in ("scene", "imaging_quality", "color")
}
JUDGE = {"name": "j", "version": "1", "kind": "exact", "sha256": None}
SCORE = {"value": 0.5, "low": 0.1, "high": 0.9, "clips": 2, "unit": "", "higher_is_better": True, "judge": JUDGE}
REPORT = {
    "format": report.FORMAT, "evaluation": "e", "about": "x", "complete": True, "missing": [], "unreadable": {},
    "notes": [], "scores": {"m": SCORE}, "judges": {"m": JUDGE},
    "clips": [
        {"name": n, "prompts": ["p"], "seed": 0, "group": n, "facts": {}, "files": [], "values": {"m": 0.5}, "cost": {},
         "error": None}
        for n in "ab"
    ],
}  # fmt: skip
ANSWER = [
    [
        {"label": "cat", "caption": "a red cat", "box": [0, 0, 9, 9]},
        {"label": "dog", "caption": "", "box": [1, 1, 5, 5]},
    ]
]


@fuzzed
@given(paths, values)
def test_items(tmp_path, path, value):
    (tmp_path / "i.json").write_text(json.dumps(edited(ITEMS, path, value)))
    refused_or_read(read_items, tmp_path / "i.json")


@fuzzed
@given(paths, values)
def test_prompts_of_vbench(tmp_path, path, value):
    (tmp_path / "p.json").write_text(json.dumps(edited(PROMPTS, path, value)))
    refused_or_read(vbench.read_prompts, tmp_path / "p.json")


@fuzzed
@given(paths, values)
def test_results_of_vbench(tmp_path, path, value):
    (tmp_path / "r.json").write_text(json.dumps(edited(RESULTS, path, value)))

    def read():
        measures, rows, scores = vbench.imported(Asked(tmp_path, options={"import": str(tmp_path / "r.json")}))
        return report.build(vbench.EVALUATION, {"notes": []}, measures, scores, rows)

    refused_or_read(read)


@fuzzed
@given(paths, values)
def test_reports(tmp_path, path, value):
    (tmp_path / "r.json").write_text(json.dumps(edited(REPORT, path, value)))

    def compared():
        first = report.read(tmp_path / "r.json")
        report.compared_lines(report.compare(first, REPORT))
        report.write_compared(tmp_path / "c", [str(tmp_path / "r.json")] * 2, (first, first))

    refused_or_read(compared)


@fuzzed
@given(paths, values, st.sampled_from(["object_class", "color", "spatial_relationship"]))
def test_answers(tmp_path, path, value, name):
    """An answer that cannot be scored makes an error of its clip, not of the run."""
    content = {"name": "GRiT", "version": "1", "clips": {"a": edited(ANSWER, path, value)}}
    (tmp_path / "a.json").write_text(json.dumps(content))
    facts = {
        "dimensions": [name],
        "object_class": {"object": "cat"},
        "color": {"color": "red"},
        "spatial_relationship": {"object_a": "cat", "object_b": "dog", "relationship": "on the left of"},
    }
    clip = Clip(Item("a", ("a red cat",), facts=facts), np.zeros((2, 16, 16, 3), np.uint8))

    def judged():
        return judge([m for m in vbench.measures({"grit": tmp_path / "a.json"}) if m.name == name], [clip])

    refused_or_read(judged)
