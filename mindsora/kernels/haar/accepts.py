"""The implementations of the Haar transform in order of preference, with the inputs that each accepts."""

from mindsora.kernels.accepts import SINGLE, Accepts

ACCEPTS = {"cpu": Accepts(x=SINGLE), "reference": Accepts()}
