"""What was trained as files for other programs: ``backbench export``."""
