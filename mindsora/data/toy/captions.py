"""Captions of the procedural clips: short, long and tag-style, several wordings for each motion.

The longest caption has 29 words and marks, so every caption fits into 32 tokens of either nano tokeniser.
"""

STYLES = ("short", "long", "tags")

DOING = {  # after "a red circle"
    "left": ("moving left", "going left", "sliding to the left", "moving from right to left"),
    "right": ("moving right", "going right", "sliding to the right", "moving from left to right"),
    "up": ("moving up", "going up", "rising", "moving upwards"),
    "down": ("moving down", "going down", "falling", "moving downwards"),
    "still": ("standing still", "staying still", "not moving", "at rest"),
    "growing": ("growing", "growing larger", "getting bigger", "growing in size"),
    "shrinking": ("shrinking", "shrinking smaller", "getting smaller", "shrinking in size"),
    "rotating": ("rotating", "turning around", "spinning", "rotating in place"),
}
DOES = {  # after "a red circle", in a sentence
    "left": ("moves from right to left", "moves steadily to the left", "slides to the left"),
    "right": ("moves from left to right", "moves steadily to the right", "slides to the right"),
    "up": ("moves from bottom to top", "moves steadily upwards", "rises"),
    "down": ("moves from top to bottom", "moves steadily downwards", "falls"),
    "still": ("stands still", "stays in place", "does not move"),
    "growing": ("grows steadily", "grows larger and larger", "gets bigger"),
    "shrinking": ("shrinks steadily", "shrinks smaller and smaller", "gets smaller"),
    "rotating": ("rotates steadily in place", "turns around its centre", "spins in place"),
}
TAGS = {
    "left": ("moving left",),
    "right": ("moving right",),
    "up": ("moving up",),
    "down": ("moving down",),
    "still": ("still",),
    "growing": ("growing",),
    "shrinking": ("shrinking",),
    "rotating": ("rotating",),
}
BACKDROP = {
    "black": "black background",
    "gray": "gray background",
    "white": "white background",
    "gradient": "gradient background",
}
WHERE = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}


def caption(things, background: str, rng, places=("",), style: str | None = None) -> str:
    """Describe a clip in words.

    `things` have shape, colour and motion; `places` names the half of the frame for each ("" for the whole frame);
    `rng` (a RandomState) picks the style if it is None, then the wording.
    """
    style = style or STYLES[rng.randint(len(STYLES))]
    named = [f"{thing.colour} {thing.shape}" for thing in things]
    words = [pick(rng, {"short": DOING, "long": DOES, "tags": TAGS}[style][thing.motion]) for thing in things]
    where = [f" {WHERE[place]}" if place else "" for place in places]
    backdrop = BACKDROP[background]

    if style == "tags":
        parts = [f"{thing.colour}, {thing.shape}, {word}{at}" for thing, word, at in zip(things, words, where)]
        return ", ".join(parts + [backdrop])
    if style == "short":
        text = " and ".join(f"a {name} {word}{at}" for name, word, at in zip(named, words, where))
        return f"{text} on a {backdrop}" if len(things) == 1 and rng.randint(2) else text
    text = " and ".join(f"a {name}{at} {word}" for name, word, at in zip(named, words, where))
    if rng.randint(2):
        return f"On a {backdrop}, {text}."
    return f"{text[0].upper()}{text[1:]} on a {backdrop}."


def pick(rng, options: tuple):
    return options[rng.randint(len(options))]
