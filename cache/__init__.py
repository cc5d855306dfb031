"""Where features are kept: the HDF5 feature file, and by default the files: ``cache/<dataset>/<model>.h5``."""
