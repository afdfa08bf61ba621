"""Run the Hypothesis tests of every reader of foreign bytes with new examples, each for some minutes.

    python tests/campaigns/fuzz.py [--minutes 10] [--workers 1] [TARGET ...]

A finding ends its target and prints the example that shows it. Without targets: all of them. Minutes and examples that the
receipt has of a target count; delete the receipt to begin again.
"""

import argparse
import datetime
import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

import harness
from fuzzing import FACTOR

# what is read -> the file and the names of its tests
TARGETS = {
    "checkpoints of any bytes": "test_convert_fuzz.py::test_any_bytes",
    "damaged checkpoints": "test_convert_fuzz.py::test_a_harmed_file",
    "damaged pickles": "test_convert_fuzz.py::test_a_harmed_pickle_in_a_sound_archive",
    "pickles": "test_convert_fuzz.py::test_any_program",
    "safetensors headers": "test_convert_fuzz.py::test_any_header",
    "MindSpore messages": "test_convert_fuzz.py::test_any_message",
    "indices of shards": "test_fuzz_readers.py::test_indices_of_shards",
    "LoRA files": "test_fuzz_readers.py::test_lora_files",
    "annotations": "test_fuzz_readers.py::test_annotations",
    "configurations": "test_fuzz_readers.py::test_configurations",
    "upstream configurations": "test_fuzz_readers.py::test_upstream_configurations",
    "model folders": "test_fuzz_readers.py::test_model_folders",
    "checksums of a folder": "test_fuzz_readers.py::test_checksums_of_a_folder",
    "manifests": "test_fuzz_readers.py::test_manifests",
    "JSON": "test_fuzz_readers.py::test_json",
    "YAML": "test_fuzz_readers.py::test_yaml",
    "recipes": "test_fuzz_readers.py::test_recipes",
    "option files": "test_fuzz_readers.py::test_option_files",
    "prompts": "test_fuzz_readers.py::test_prompts",
    "prompts of evaluations": "test_fuzz_readers.py::test_prompts_of_evaluations",
    "texts for tokenisers": "test_fuzz_readers.py::test_texts_of_tokenisers",
    "files of tokenisers": "test_fuzz_readers.py::test_files_of_tokenisers",
    "tokenizer.json": "test_fuzz_readers.py::test_tokenizer_json",
    "pictures": "test_fuzz_readers.py::test_pictures",
    "videos": "test_fuzz_readers.py::test_videos",
    "states of a training": "test_train_resume.py::test_a_harmed_state_is_what_it_was_or_is_found",
    "latents": "test_sources.py::test_a_harmed_file_of_latents_is_what_it_was_or_is_found",
}
RECEIPT = harness.receipt.RESULTS / "campaign_fuzz.json"
RUN = 60  # seconds that one process should take: Hypothesis keeps every example in memory
PASSED = re.compile(r"- (\d+) passing, ")


def fuzz(target: str, minutes: float) -> dict | None:
    """Run one target until its minutes are full: a row of the receipt, or None after a finding."""
    before = next((row for row in _rows() if row["target"] == target), {"seconds": 0, "examples": 0})
    start, factor, examples = time.monotonic() - before["seconds"], 2, before["examples"]
    while (left := minutes * 60 - (time.monotonic() - start)) > 0:
        began = time.monotonic()
        done = _run(TARGETS[target], factor)
        if done.returncode:
            print(f"FINDING: {target}\n{done.stdout}{done.stderr}", flush=True)
            return None
        examples += sum(map(int, PASSED.findall(done.stdout)))
        factor = max(1, int(factor * min(RUN, left) / (time.monotonic() - began)))
    seconds = round(time.monotonic() - start)
    row = {"target": target, "examples": examples, "seconds": seconds, "date": datetime.date.today().isoformat()}
    print(row, flush=True)
    return row


def _run(test: str, factor: int) -> subprocess.CompletedProcess:
    conftest = [] if "train" in test else ["--noconftest"]  # conftest.py loads MindSpore, which most readers do not
    command = [sys.executable, "-m", "pytest", "-q", "-m", "full", "--hypothesis-show-statistics", *conftest]
    return subprocess.run(
        ["env", f"{FACTOR}={factor}", "OMP_NUM_THREADS=1", "nice", "-n", "10", *command, f"tests/{test}"],
        cwd=harness.ROOT, capture_output=True, text=True,
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of: {', '.join(TARGETS)}")
    parser.add_argument("--minutes", type=float, default=10, help="for each target")
    parser.add_argument("--workers", type=int, default=1, help="targets at a time")
    args = parser.parse_args()
    if unknown := set(args.targets) - TARGETS.keys():
        parser.error(f"{unknown.pop()!r}: choose from {', '.join(TARGETS)}")
    start = time.monotonic()
    targets, findings = args.targets or list(TARGETS), 0
    with ThreadPoolExecutor(args.workers) as pool:
        for done in as_completed(pool.submit(fuzz, target, args.minutes) for target in targets):
            findings += done.result() is None
            if row := done.result():
                write(row, start)
    sys.exit(bool(findings))


def _rows() -> list[dict]:
    """The rows of the receipt."""
    return json.loads(RECEIPT.read_text())["rows"] if RECEIPT.exists() else []


def write(row: dict, start: float) -> None:
    """Put a row into the receipt, in place of the target's last one."""
    rows = {old["target"]: old for old in _rows()} | {row["target"]: row}
    rows = [rows[target] for target in TARGETS if target in rows]
    totals = {key: sum(row[key] for row in rows) for key in ("examples", "seconds")}
    numbers = {"targets": len(rows), "examples": totals["examples"], "target_seconds": totals["seconds"]}
    harness.finish("fuzz", numbers | {"rows": rows}, start)


if __name__ == "__main__":
    main()
