from backbench.data.cli import main

main(prog_name="backbench data")
