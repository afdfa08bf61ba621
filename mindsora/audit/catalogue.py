"""The models in the box and the released folders of the line, as `mindsora models` and mindsora/models/README.md show
them. `python -m mindsora.audit.catalogue` fills the README and writes docs/model_cards.md of a checkout.
"""

from pathlib import Path

from mindsora import zoo
from mindsora.config import read_json
from mindsora.models import registry
from mindsora.released import RELEASED, UNVERIFIED, Released
from mindsora.shapes import SPATIAL_STRIDE, ShapeRules

README = Path(__file__).parents[1] / "models" / "README.md"
CARDS = Path(__file__).parents[2] / "docs" / "model_cards.md"
BEGIN, END = "<!--released-->\n", "<!--/released-->\n"  # the README's table is between these lines
CARD = "910b2"  # the card of the memory estimates: bfloat16, the autoencoder in float32
DECODED = (93, 480, 640)  # frames, height, width of the clip that an autoencoder alone is planned for
GIB = 2**30


def boxed(name: str) -> dict:
    """A model in the box, as JSON has it."""
    folder = zoo.BOX / name
    index = zoo.ModelIndex.read(folder)
    return {"name": name, "what": index.what, "weight_bytes": _weight_bytes(name)} | _shapes(index)


def _weight_bytes(name: str) -> int:
    return sum(file.stat().st_size for file in (zoo.BOX / name).rglob("*.safetensors"))


def row(entry: Released, planned: bool) -> dict:
    """A released folder, as JSON has it.

    Args:
        planned: also what needs the Cells (and so MindSpore): memory, and the sizes of an autoencoder alone.
    """
    found = {
        "name": entry.name,
        "published": entry.published,
        "what": entry.what,
        "runs": runs(entry),
        "missing": entry.missing,
        "configuration": entry.configuration,
        "cells": entry.cells,
        "tables": {
            part: registry.spec(cell).package.replace(".", "/") + "/names.py" for part, cell in entry.cells.items()
        },
        "parameters": entry.parameters,
        "caveats": list(entry.caveats),
        "verified": list(entry.verified),
    }
    if entry.is_model:
        found |= _shapes(zoo.ModelIndex.read(zoo.CONFIGURATIONS / entry.configuration))
    if planned and entry.cells:
        found |= _planned(entry)
    if entry.trained:
        found["legal"] = "; ".join(filter(None, (found.get("legal"), entry.trained)))
    return found


def runs(entry: Released) -> str:
    """Which part of a release runs here, in one word."""
    if not entry.cells:
        return "no"
    return "yes" if not entry.missing else "the autoencoder"


def _shapes(index: zoo.ModelIndex) -> dict:
    """Default and legal sizes of a model."""
    keys = ("num_frames", "height", "width", "num_inference_steps", "guidance_scale", "fps")
    return {"default": {key: getattr(index, key) for key in keys}, "legal": index.shapes.describe()}


def _planned(entry: Released) -> dict:
    """Memory in bytes of a model at its default size, or of an autoencoder alone at DECODED with its legal sizes."""
    if entry.is_model:
        from mindsora.audit.plan import plan

        memory = plan(entry.name, device=CARD)["memory"]
        weights = {name: part["weights"] for name, part in memory["components"].items()}
        return {"memory": {"weights": weights, "peak": memory["peak"], "peak_offload": memory["peak_offload"]}}

    from mindsora.audit.memory import decoder, weights
    from mindsora.ckpt_convert.recognise import build_cell

    vae = build_cell(entry.cells["vae"], read_json(zoo.CONFIGURATIONS / entry.configuration / "config.json"))
    stride, held = vae.config.temporal_stride, weights(vae)
    latents = ShapeRules((stride, SPATIAL_STRIDE, SPATIAL_STRIDE), 1, *DECODED).latent(*DECODED)
    peak = held + decoder(vae, latents, cpu=False)
    return {
        "legal": f"frames 1 + {stride}k; height and width multiples of {SPATIAL_STRIDE}",
        "memory": {"weights": {"vae": held}, "decoded": list(DECODED), "peak": peak},
    }


# For people


def describe(every: bool) -> str:
    """The models in the box and those whose weights can be fetched; or every released folder."""
    lines = []
    for name in zoo.in_the_box():
        found = boxed(name)
        lines += [
            f"{name}: in the box, {found['what']}, {found['weight_bytes'] / 1e6:.1f} MB of weights",
            *_size_lines(found),
        ]
    lines += [
        f"{name}: in the box, autoencoder for `mindsora reconstruct`, {_weight_bytes(name) / 1e6:.1f} MB of weights"
        for name in zoo.autoencoders_in_the_box()
    ]
    for entry in RELEASED:
        if every or entry.is_model:
            lines += _lines(row(entry, planned=every), every)
    return "\n".join([*lines, UNVERIFIED] if every else lines)


def _lines(found: dict, every: bool) -> list[str]:
    where = "" if every else "; weights are not in the box"
    lines = [f"{found['name']}: Open-Sora Plan {found['published']}, {found['what']}{where}"]
    if found["parameters"]:
        lines.append(f"    {_parameters(found['parameters'])}")
    lines += _size_lines(found)
    if every:
        lines.append(f"    runs    {found['runs']}" + (f"; missing: {found['missing']}" if found["missing"] else ""))
        if found["configuration"]:
            lines += [f"    memory  {_memory(found)}", f"    config  mindsora/released/{found['configuration']}"]
        lines += [f"    names   {part}: {found['cells'][part]}, {table}" for part, table in found["tables"].items()]
        lines += [f"    note    {caveat}" for caveat in found["caveats"]]
        lines += [f"    checked {claim}" for claim in found["verified"]]
    return lines


def _size_lines(found: dict) -> list[str]:
    lines = []
    if clip := found.get("default"):
        lines.append(
            f"    default {clip['num_frames']} x {clip['height']} x {clip['width']}, "
            f"{clip['num_inference_steps']} steps, guidance {clip['guidance_scale']:g}, {clip['fps']:g} fps"
        )
    return lines + ([f"    legal   {found['legal']}"] if "legal" in found else [])


def _parameters(parameters: dict[str, int]) -> str:
    parts = ", ".join(f"{part} {count / 1e9:.2f}" for part, count in parameters.items())
    count = sum(parameters.values())
    return f"{count / 1e9:.2f} billion parameters ({parts}), {count * 2 / GIB:.1f} GiB in half precision"


def _memory(found: dict) -> str:
    memory = found["memory"]
    held = f"{sum(memory['weights'].values()) / GIB:.1f} GiB of weights"
    if "decoded" in memory:
        clip = " x ".join(map(str, memory["decoded"]))
        return f"{held} in float32, peak {memory['peak'] / GIB:.1f} decoding {clip}"
    return f"{held}, peak {memory['peak'] / GIB:.1f}, with offload {memory['peak_offload'] / GIB:.1f}"


def markdown() -> str:
    """The table of mindsora/models/README.md and the notes below it."""
    found = [row(entry, planned=True) for entry in RELEASED]
    lines = [
        "| released folder | here | makes | runs | Cells | configuration | legal sizes | memory |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [f"| {' | '.join(cell or '-' for cell in _columns(one))} |" for one in found]
    for one in found:
        notes = [f"- Missing: {one['missing']}."] if one["missing"] else []
        notes += [f"- Note: {caveat}." for caveat in one["caveats"]]
        notes += [f"- Verified: {claim}." for claim in one["verified"]]
        lines += ["", f"**{one['name']}**", "", *notes]
    return "\n".join([*lines, "", UNVERIFIED, ""])


def _columns(found: dict) -> list[str]:
    configuration, tables = found["configuration"], found["tables"]
    cells = (f"[{cell}]({tables[part].removeprefix('mindsora/models/')})" for part, cell in found["cells"].items())
    return [
        found["published"],
        f"`{found['name']}`",
        found["what"],
        found["runs"],
        ", ".join(cells),
        f"[{configuration}](../released/{configuration})" if configuration else "",
        found.get("legal", ""),
        _memory(found) if "memory" in found else "",
    ]


def filled(text: str) -> str:
    """The README with the table of these rows."""
    head, rest = text.split(BEGIN)
    return head + BEGIN + markdown() + END + rest.split(END)[1]


_HEAD = """# Model cards

Three levels for every released folder of the line: what upstream **released**, what was **verified** here and with what,
and what was **not measured**. The trained models of this package have cards of their own: [nano](nano.md),
[nano_i2v](nano_i2v.md), [nano_vae_real](nano_vae_real.md). Sizes and memory stand in the
[table of models](../mindsora/models/README.md).

<!--all from: released shapes, counted; upstream's pages. `python -m mindsora.audit.catalogue` writes this page-->
"""


def cards() -> str:
    """docs/model_cards.md."""
    return "\n".join([_HEAD, *map(_card, RELEASED)])


def _card(entry: Released) -> str:
    where = f"`{entry.hub_name.removesuffix('/vae')}` on Hugging Face"
    lines = [f"## {entry.name}", "", f"- **Released**: {entry.what}; {where}."]
    if entry.parameters:
        lines.append(f"- **Parameters**: {_parameters(entry.parameters)}.")
    lines.append(f"- **Runs here**: {runs(entry)}." + (f" Missing: {entry.missing}." if entry.missing else ""))
    lines += [f"- **Verified**: {claim}." for claim in entry.verified] or ["- **Verified**: nothing."]
    lines += [f"- **Note**: {caveat}." for caveat in entry.caveats]
    return "\n".join([*lines, f"- **Not measured**: {_NOT_MEASURED}", ""])


_NOT_MEASURED = (
    "its quality, speed and memory with the published weights, which were not read here; anything on Ascend."
)


if __name__ == "__main__":
    CARDS.write_text(cards(), encoding="utf-8")
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
