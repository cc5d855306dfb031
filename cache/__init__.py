"""The feature cache: the HDF5 feature file, and by default the files themselves, ``cache/<dataset>/<model>.h5``."""
