"""Checkpoints: upstream's names on one side, the Cells' on the other."""

from mindsora.ckpt_convert.load import load, save, shapes, upstream_state

__all__ = ["load", "save", "shapes", "upstream_state"]
