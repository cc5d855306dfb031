"""Everything trained, on images from elsewhere: Phase 4, the command ``finetune generalize``."""
