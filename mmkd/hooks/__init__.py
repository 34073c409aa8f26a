"""Hooks of mmkd."""

from .distill import DistillHook
from .preemption import PreemptionHook
from .transfer_monitor import TransferMonitor

__all__ = ['DistillHook', 'PreemptionHook', 'TransferMonitor']
