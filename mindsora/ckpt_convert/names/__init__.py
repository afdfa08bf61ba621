"""One name table per model: how a Cell's parameters are called in upstream's checkpoints."""

from mindsora.ckpt_convert.names.table import MODELS, NameTable, table_for, table_of

__all__ = ["MODELS", "NameTable", "table_for", "table_of"]
