from backbench.extract.cli import main

main(prog_name="extract")
