"""From noise to data: noise levels (schedules), solvers, guidance. `mindsora.train.objectives` has training's side."""

from mindsora.sampling.flow_matching import FlowMatchScheduler
from mindsora.sampling.guidance import guide
from mindsora.sampling.solvers import Step, euler, euler_ancestral
from mindsora.sampling.v_prediction import VPredictionScheduler

__all__ = ["FlowMatchScheduler", "Step", "VPredictionScheduler", "euler", "euler_ancestral", "guide"]
