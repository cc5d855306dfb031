# make demo: set up everything, run the main job on an embedded image set, and classify ten new images. make test: all
# tests. make quick: those that take a minute. make check: lint and types. make coverage: all tests once more, and which
# lines they never run.
PYTHON ?= python3
BIN := .venv/bin
ALL := -n auto --maxprocesses 4 --dist loadfile

.PHONY: demo test quick check coverage clean

demo: .venv/.demo
	$(BIN)/extract --model mobilenetv2_100 --model tf_efficientnet_lite0 --dataset digits
	$(BIN)/probe --features cache/digits --method logistic --method knn --save heads
	$(BIN)/report
	$(BIN)/backbench predict heads/digits/mobilenetv2_100-logistic docs/new-digits

test: .venv/.test
	$(BIN)/python -m pytest $(ALL)

quick: .venv/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile $$(sed '/^#/d' tests/quick.txt)

check: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	.ci/types

coverage: .venv/.test
	@mkdir -p build/coverage
	$(BIN)/python -m pytest $(ALL) --cov --cov-report=term --cov-report=html:build/coverage/html

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
