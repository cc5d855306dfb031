"""End-to-end fine-tuning of a backbone on a data set (Phases 2 and 3)."""
