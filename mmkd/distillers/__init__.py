"""The model that the runner trains."""

from .distiller import Distiller

__all__ = ['Distiller']
