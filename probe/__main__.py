from backbench.probe.cli import main

main(prog_name="probe")
