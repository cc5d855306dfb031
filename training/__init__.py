"""What finetune and cnn share: checkpoints, states of stopped runs, evaluation, settings and the loop's parts."""
