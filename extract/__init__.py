"""Frozen backbones: names, weights, and one pass over a data set into a feature file."""
