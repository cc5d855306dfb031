from backbench.finetune.cli import main

main(prog_name="finetune")
