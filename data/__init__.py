"""Images in: one registry of image sets, their splits and the decoding of every picture to RGB."""
