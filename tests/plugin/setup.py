"""A package outside mmkd that adds a loss, a region, an exit and a family to it."""

from setuptools import setup

setup(name='mmkd-example', version='0.1', packages=['mmkd_example'])
