"""One name table per model: how a Cell's parameters are called in upstream's checkpoints."""

from mindsora.ckpt_convert.names.table import NameTable, table_for

__all__ = ["NameTable", "table_for"]
