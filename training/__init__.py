"""The code that finetune and cnn share: checkpoints, training states, evaluation, settings and parts of the loop."""
