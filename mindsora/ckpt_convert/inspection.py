"""Describe a checkpoint without executing anything in it."""

from collections import Counter

from mindsora.ckpt_convert.checkpoint import Checkpoint
from mindsora.ckpt_convert.recognise import Recognised, recognise
from mindsora.errors import InputError


def describe(checkpoint: Checkpoint) -> str:
    """Container, model, parameters, dtypes, and the configuration inferred from the shapes."""
    entries = checkpoint.values()
    try:
        recognised = recognise(checkpoint)
    except InputError as error:
        recognised, reason = None, str(error)
    lines = [f"{checkpoint.path}: {checkpoint.container}" + (f" in {checkpoint.wrapper}" if checkpoint.wrapper else "")]
    if checkpoint.choices:
        lines.append(f"    also holds: {', '.join(checkpoint.choices)}")
    lines.append(
        f"    model:      {f'{recognised.model}, {recognised.names} names' if recognised else f'not recognised ({reason})'}"
    )
    size, nbytes = sum(entry.size for entry in entries), sum(entry.nbytes for entry in entries)
    lines.append(f"    tensors:    {len(checkpoint)}, {size:,} elements, {nbytes / 1e9:.3f} GB")
    kinds = Counter()
    for entry in entries:
        kinds[entry.dtype] += entry.size
    lines += [f"    {kind + ':':<15} {count:,} elements" for kind, count in kinds.most_common()]
    return "\n".join(lines + (_configuration(recognised) if recognised else []))


def _configuration(recognised: Recognised) -> list[str]:
    lines = ["    configuration (* assumed: neither in the weights nor in a config.json):"]
    lines += [
        f"      {'*' if key in recognised.assumed else ' '} {key}: {value}"
        for key, value in sorted(recognised.config.items())
    ]
    return lines + ([f"    no weights of it: {', '.join(recognised.dropped)}"] if recognised.dropped else [])
