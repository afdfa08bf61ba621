"""From noise to data: noise levels (schedules), solvers, guidance. `mindsora.train.objectives` has training's side."""

from mindsora.sampling.flow_matching import FlowMatchScheduler
from mindsora.sampling.guidance import guide
from mindsora.sampling.solvers import Step, dpmpp_2m, euler, euler_ancestral, pndm
from mindsora.sampling.v_prediction import EpsilonScheduler, VPredictionScheduler

__all__ = [
    "EpsilonScheduler",
    "FlowMatchScheduler",
    "Step",
    "VPredictionScheduler",
    "dpmpp_2m",
    "euler",
    "euler_ancestral",
    "guide",
    "pndm",
]
