"""A small convolutional network for small images, trained from scratch: what the backbones are compared with."""
