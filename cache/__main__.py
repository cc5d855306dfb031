from cache.cli import main

main(prog_name="python -m cache")
