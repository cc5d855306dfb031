from backbench.generalize.cli import main

main(prog_name="finetune generalize")
