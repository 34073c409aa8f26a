"""Adapters: what makes a student's tensor comparable with a teacher's."""

from .project import Project

__all__ = ['Project']
