from cnn.cli import main

main(prog_name="python -m cnn")
