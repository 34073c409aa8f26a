"""Hooks of mmkd."""

from .distill import DistillHook
from .preemption import PreemptionHook

__all__ = ['DistillHook', 'PreemptionHook']
