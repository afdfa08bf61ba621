"""A language model that mindformers runs on Ascend, by the YAML of one of its prediction tasks.

The calls are those of mindformers 2.1.0, whose source they were compared with. Not measured on Ascend.
"""

import os
from functools import cached_property

from mindsora.errors import InputError, shown
from mindsora.refine.instruction import MAX_NEW_TOKENS, SYSTEM, request
from mindsora.text.chat import ChatTokenizer


class Mindformers:
    """Builds the model with the first prompt. mindformers writes its log folder and its results into the working folder."""

    def __init__(self, path: str):
        """path: a YAML file whose `pretrained_model_dir` is the model's folder. InputError: there is no such file."""
        if not os.path.isfile(path):
            raise InputError(f"mindformers needs the YAML file of a prediction task; {shown(path)} does not exist")
        self.path = path

    @cached_property
    def _trainer(self):
        try:
            import mindformers
        except (
            Exception
        ) as error:  # a package of its long list that is missing, or of another version, fails in any way
            raise InputError(
                f"mindformers cannot be imported ({shown(error, quote=False)}); docs/prompt_refiner.md says which versions "
                "belong together. Another way is the URL of a server (vLLM, Ollama, MindIE)"
            ) from error
        return mindformers.Trainer(args=self.path, task="text_generation")

    @cached_property
    def _tokenizer(self) -> ChatTokenizer:
        folder = self._trainer.config.get("pretrained_model_dir")
        if not folder:
            raise InputError(
                f"{shown(self.path)} lacks pretrained_model_dir, the folder of the model and its tokeniser"
            )
        return ChatTokenizer.from_folder(folder)

    def __call__(self, prompt: str) -> str:
        """The answer to a prompt. InputError: mindformers cannot be imported, or returns something else."""
        chat = self._tokenizer.text(SYSTEM, request(prompt))
        # The chat has its begin token; without add_special_tokens=False there would be two.
        result = self._trainer.predict(input_data=[chat], add_special_tokens=False, max_new_tokens=MAX_NEW_TOKENS)
        try:
            (text,) = result[0]["text_generation_text"]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(f"mindformers answers {shown(repr(result), quote=False)}, no generated text") from error
        # The text begins with the conversation, without control tokens.
        return text.removeprefix(self._tokenizer.decode(self._tokenizer.encode(chat)))
