"""Refined prompts that are in a file already."""

import difflib
from dataclasses import dataclass

from mindsora.config import read_json
from mindsora.errors import InputError, shown


@dataclass(frozen=True)
class PromptFile:
    """A JSON object: prompt -> refined prompt."""

    path: str

    def __post_init__(self):
        for prompt, answer in read_json(self.path).items():
            if not isinstance(answer, str):
                raise InputError(f"{shown(self.path)}: the value of {shown(prompt)} must be the refined prompt, a text")

    def __call__(self, prompt: str) -> str:
        prompts = read_json(self.path)
        if prompt not in prompts:
            near = difflib.get_close_matches(prompt, prompts, n=1)
            hint = f"; nearest: {shown(near[0])}" if near else ""
            raise InputError(f"{shown(self.path)} holds no refined prompt for {shown(prompt)}{hint}")
        return prompts[prompt]
