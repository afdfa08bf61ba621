"""Noise schedules: how training mixes noise in, and how sampling takes it out."""

from mindsora.schedulers.flow_matching import FlowMatchScheduler, euler, guide

__all__ = ["FlowMatchScheduler", "euler", "guide"]
