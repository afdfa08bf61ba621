"""The implementations of the Haar transform in order of preference, and what each takes."""

from mindsora.kernels.accepts import SINGLE, Accepts

ACCEPTS = {"cpu": Accepts(x=SINGLE), "reference": Accepts()}
