"""Heads on stored features. Needs neither a GPU nor timm nor the images: only the feature file.

It can be called: ``backbench.probe(...)`` is ``backbench.api.probe``.
"""

from backbench import make_callable

METHODS = {
    "logistic": "logistic.Logistic",
    "ridge": "ridge.Ridge",
    "knn": "knn.Knn",
    "centroid": "centroid.Centroid",
    "published": "published_head.PublishedHead",
}
"""The class of each method's head, in a module of this room. All but the last are ours; it is the published study's."""

make_callable(__name__)
