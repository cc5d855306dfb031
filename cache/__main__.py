from backbench.cache.cli import main

main(prog_name="backbench cache")
