"""Refine a prompt: a language model rewrites a short one into the dense style of the training captions.

    from mindsora.refine import back_end, refine

    refined = refine("a cat", back_end("http://127.0.0.1:8000/v1"))
    pipe(refined.prompt)

A back end is a function from a prompt to an answer. It raises `NoAnswer` if there is none to use: then the prompt stays.
Introduced with Open-Sora Plan v1.3, for text to video alone: given frames cannot show what a refined prompt adds.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from mindsora.errors import InputError, shown
from mindsora.refine.instruction import NoAnswer

__all__ = ["BackEnd", "NoAnswer", "Refined", "back_end", "refine"]

BackEnd = Callable[[str], str]
LONGEST = 10_000  # characters of an answer; 512 tokens are some 2,000
_THOUGHTS = re.compile(r"\s*<think>.*?(</think>|\Z)", re.DOTALL)  # of reasoning models, before their answer


@dataclass(frozen=True)
class Refined:
    """What became of a prompt.

    Attributes:
        original: as the user wrote it.
        prompt: what the video model reads: the answer, or the original.
        kept: why the original stays; None: it was refined.
    """

    original: str
    prompt: str
    kept: str | None = None


def back_end(name: str) -> BackEnd:
    """A back end by what names it: a URL, `mindformers:FILE.yaml`, a .json file of refined prompts, a folder of a model.

    Raises:
        InputError: it is none of these, or its files do not fit.
    """
    # Imported here: a command that refines nothing waits for none of them.
    from mindsora.refine.endpoint import Endpoint
    from mindsora.refine.file import PromptFile
    from mindsora.refine.llama import Llama
    from mindsora.refine.mindformers import Mindformers

    if "://" in name:
        return Endpoint.parse(name)
    if name.startswith("mindformers:"):
        return Mindformers(name.removeprefix("mindformers:"))
    if os.path.isdir(name):
        return Llama(name)
    if os.path.isfile(name) and name.lower().endswith(".json"):
        return PromptFile(name)
    raise InputError(
        f"refiner {shown(name)}: must be a .json file of refined prompts, the folder of a Llama model, the URL of an "
        "OpenAI-style endpoint such as http://127.0.0.1:8000/v1, or mindformers:FILE.yaml"
    )


def refine(prompt: str, by: BackEnd, refusal: Callable[[str], str | None] = lambda answer: None) -> Refined:
    """Refine one prompt. An answer that is empty, too long or refused leaves it as it is.

    Args:
        by: of `back_end`, or any function from prompt to answer.
        refusal: the reason not to take an answer, or None.

    Raises:
        InputError: the back end cannot work: a server that does not answer, a prompt that a file lacks.
    """
    try:
        answer = by(prompt)
    except NoAnswer as error:
        return Refined(prompt, prompt, str(error))
    answer = _one_line(answer)
    reason = _unusable(answer) or refusal(answer)
    return Refined(prompt, prompt, reason) if reason else Refined(prompt, answer)


def _one_line(answer: str) -> str:
    """An answer without thoughts, line breaks and characters that print nothing."""
    answer = _THOUGHTS.sub("", answer, count=1) if answer.lstrip().startswith("<think>") else answer
    return " ".join("".join(c for c in answer if c.isprintable() or c.isspace()).split())


def _unusable(answer: str) -> str | None:
    if not any(map(str.isalnum, answer)):
        return "the answer is empty"
    if len(answer) > LONGEST:
        return f"the answer has {len(answer)} characters, more than {LONGEST}"
    return None
