# make demo: set up everything and run the main job on an embedded image set. make test: the tests. make check: lint.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check clean

demo: .venv/.demo
	$(BIN)/extract --model mobilenetv2_100 --model tf_efficientnet_lite0 --dataset digits
	$(BIN)/probe --features cache/digits --method logistic --method knn
	$(BIN)/report

test: .venv/.test
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

check: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv build *.egg-info

.venv/.demo: setup.cfg
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -e '.[offline]'
	@touch $@

.venv/.test: setup.cfg
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -e '.[test]'
	@touch $@
