"""Heads on stored features. Needs neither a GPU nor timm nor the images: only the feature file."""
