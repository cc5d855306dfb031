"""A small convolutional network for small images, trained from scratch as a baseline for the backbones."""
