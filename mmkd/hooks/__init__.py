"""Hooks of mmkd."""

from .distill import DistillHook

__all__ = ['DistillHook']
