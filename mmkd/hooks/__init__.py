"""Hooks of mmkd."""

from .distill import DistillHook
from .preemption import PreemptionHook
from .teacher_visualization import TeacherVisualizationHook
from .transfer_monitor import TransferMonitor

__all__ = ['DistillHook', 'PreemptionHook', 'TeacherVisualizationHook', 'TransferMonitor']
