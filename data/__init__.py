"""Image data: the registry of data sets, their splits, and the decoding of every image to RGB."""
