"""Multi-shot continuity of a model that goes on from the last frame of the shot before: see `shots`."""

from mindsora.evaluate.shots import CONTINUED as EVALUATION

__all__ = ["EVALUATION"]
