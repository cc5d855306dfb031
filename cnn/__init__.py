"""A small convolutional network for small pictures, trained from scratch: what the backbones are compared with."""
