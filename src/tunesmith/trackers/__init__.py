"""Experiment trackers as sinks over a run's events: TensorBoard, MLflow, Weights & Biases."""

from tunesmith.trackers.base import Sink, Tracker
from tunesmith.trackers.table import KINDS, open_tracker

__all__ = ["KINDS", "Sink", "Tracker", "open_tracker"]
