from backbench.cnn.cli import main

main(prog_name="cnn")
