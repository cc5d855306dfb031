"""Frozen backbones: names, weights, and one pass over a data set into a feature file.

It can be called: ``backbench.extract(...)`` is ``backbench.api.extract``.
"""

from backbench import make_callable

make_callable(__name__)
