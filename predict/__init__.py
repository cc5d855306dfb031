"""Classes of new images, by everything that was trained: ``backbench predict``."""
