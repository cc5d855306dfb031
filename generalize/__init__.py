"""Phase 4: everything that was trained, on other data sets and on corrupted images: ``finetune generalize``."""
