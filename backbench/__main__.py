from backbench.cli import main

main(prog_name="backbench")
