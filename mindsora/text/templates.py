"""The prompt template of each Open-Sora Plan version, and whether the version cleans the result."""

from dataclasses import dataclass

from mindsora.errors import InputError, shown
from mindsora.text.cleaning import clean_prompt


@dataclass(frozen=True)
class PromptTemplate:
    """Turn a user's prompts into the two texts for the encoders.

    Attributes:
        positive: text with {} in place of the prompt.
        negative: text before the user's negative prompt, without a separator.
        cleaned: whether the caption cleaner, which also lower-cases, then processes both texts.
    """

    positive: str = "{}"
    negative: str = ""
    cleaned: bool = True

    def apply(self, prompt: str, negative_prompt: str = "") -> tuple[str, str]:
        """(positive, negative) text for one prompt."""
        texts = self.positive.replace("{}", prompt, 1), self.negative + negative_prompt
        return (clean_prompt(texts[0]), clean_prompt(texts[1])) if self.cleaned else texts


_V1_2_NEGATIVE = (
    "nsfw, lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, cropped, worst "
    "quality, low quality, normal quality, jpeg artifacts, signature, watermark, username, blurry"
)

_V1_2_STYLED = (
    "(masterpiece), (best quality), (ultra-detailed), {}. emotional, harmonious, vignette, 4k epic detailed, shot on "
    "kodak, 35mm photo, sharp focus, high budget, cinemascope, moody, epic, gorgeous"
)

# Upstream indents the v1.3 and v1.5 texts over several lines. Cleaning and T5's normaliser reduce that to single spaces;
# of the outer spaces only the one between a negative template and the user's prompt has an effect.
TEMPLATES = {
    "v1.2": PromptTemplate("(masterpiece), (best quality), (ultra-detailed), {}.", _V1_2_NEGATIVE + ". "),
    # Of v1.2's other scripts: those for Ascend, and those for several GPUs.
    "v1.2_npu": PromptTemplate(_V1_2_STYLED, _V1_2_NEGATIVE),
    "v1.2_multi_gpu": PromptTemplate(f"(unwatermarked), {_V1_2_STYLED}", _V1_2_NEGATIVE + ". "),
    "v1.3": PromptTemplate("high quality, high aesthetic, {}", _V1_2_NEGATIVE + ". ", cleaned=False),
    "v1.5": PromptTemplate(
        "high quality, {}",
        "Worst quality, Normal quality, Low quality, Low res, Blurry, Jpeg artifacts, Grainy, watermark, banner, "
        "Cropped, Out of frame, Out of focus, Bad anatomy, Bad proportions, Deformed, Disconnected limbs, Disfigured, "
        "username, error, sketch, duplicate, ugly, monochrome, horror, geometry, mutation, disgusting, overexposed, "
        "underexposed. ",
    ),
    "nano": PromptTemplate(),  # trained on plain captions and the empty one
    "other": PromptTemplate(),
}


def template_for(version: str) -> PromptTemplate:
    """The template of an Open-Sora Plan version ("v1.2", "v1.3", "v1.5", ...), of "nano", or the plain one, "other"."""
    if version not in TEMPLATES:
        raise InputError(f"prompt template {shown(version)}: must be one of {', '.join(TEMPLATES)}")
    return TEMPLATES[version]
