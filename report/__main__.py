from backbench.report.cli import main

main(prog_name="report")
