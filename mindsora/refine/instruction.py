"""What the refiner of Open-Sora Plan v1.3 was trained on: its instruction, and how long an answer may be."""

SYSTEM = "You are a caption refiner."
REQUEST = (
    'Refine the sentence: "{}" to contain subject description, action, scene description. (Optional: camera language, '
    "light and shadow, atmosphere) and conceive some additional actions to make the sentence more dynamic. Make sure it "
    "is a fluent sentence, not nonsense."
)
MAX_NEW_TOKENS = 512


class NoAnswer(Exception):
    """A model gave no whole answer; the message says why. The prompt stays as it is."""


def request(prompt: str) -> str:
    """The user's turn for a prompt."""
    return REQUEST.replace("{}", prompt)  # format() would read braces of the prompt


def unfinished() -> NoAnswer:
    """The model has not ended its answer."""
    return NoAnswer(f"the answer does not end within {MAX_NEW_TOKENS} tokens")
