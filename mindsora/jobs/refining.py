"""Refines the prompts of a plan: each once, before the model loads."""

import sys
import warnings
from dataclasses import replace
from functools import partial

from mindsora.errors import InputError, shown
from mindsora.jobs.planning import Job, Plan
from mindsora.pipelines.request import Request
from mindsora.refine import Refined, refine
from mindsora.text.templates import template_for
from mindsora.text.tokenizers import T5Tokenizer


def refined(plan: Plan, quiet: bool = False) -> Plan:
    """The plan with refined prompts; without a refiner the plan itself. Both prompts of a clip are printed.

    A prompt stays, with a warning, if its answer is empty, longer than the text encoder reads, or nothing that the model
    can be asked for.

    Raises:
        InputError: as `mindsora.refine.refine`.
    """
    if plan.refiner is None:
        return plan
    tokenizer = T5Tokenizer.from_folder(plan.folder / "tokenizer", plan.index.max_text_lengths[0])
    originals = dict.fromkeys(job.request.prompts[0] for job in plan.jobs)
    answers = {prompt: refine(prompt, plan.refiner, partial(_refusal, plan, tokenizer)) for prompt in originals}
    for one in answers.values():
        if one.kept:
            warnings.warn(f"prompt {shown(one.original)} stays as it is: {one.kept}", stacklevel=3)
        elif not quiet:
            print(f"refined {shown(one.original)}: {shown(one.prompt, 4000)}", file=sys.stderr)
    # A refiner of 8B parameters would stay in memory with the plan.
    return replace(plan, jobs=tuple(_with(job, answers[job.request.prompts[0]]) for job in plan.jobs), refiner=None)


def refined_record(plan: Plan, job: Job) -> dict | None:
    """What a manifest says of it."""
    if job.refined is None:
        return None
    one = job.refined
    return {"original": one.original, "prompt": one.prompt, "by": plan.refined_by, "kept": one.kept}


def _with(job: Job, one: Refined) -> Job:
    return replace(job, clip=replace(job.request, prompts=(one.prompt,)), refined=one)


def _refusal(plan: Plan, tokenizer, answer: str) -> str | None:
    """Why the model cannot be asked for an answer, or None."""
    try:
        Request.of(plan.index, answer)
    except InputError as error:
        return str(error)
    length = len(tokenizer.encode(template_for(plan.index.template).apply(answer, "")[0]))
    if length > tokenizer.room:
        return f"the answer has {length} tokens, more than the {tokenizer.room} that the text encoder reads"
    return None
