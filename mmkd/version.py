"""The one place that states mmkd's version."""

__version__ = '0.1.0.dev0'
