"""Noise schedules: how training mixes noise in, and how sampling takes it out."""

from mindsora.sampling.flow_matching import FlowMatchScheduler, euler, guide
from mindsora.sampling.v_prediction import VPredictionScheduler, euler_ancestral

__all__ = ["FlowMatchScheduler", "VPredictionScheduler", "euler", "euler_ancestral", "guide"]
