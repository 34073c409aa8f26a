"""Puts this folder on the path: tests share the models of ``toys.py``."""
