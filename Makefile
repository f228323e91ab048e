PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test
demo: .venv/demo.done
	mkdir -p demo
	$(BIN)/backmap-openmm examples/sps_melt.gro --model sps -o demo/aa.pdb \
	    --report demo/report.html --picture demo/melt.png --seed 1 --overwrite

test: .venv/test.done
	$(BIN)/python -m pytest -q

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/demo.done: setup.py pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

.venv/test.done: setup.py pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet -c constraints.txt -e '.[test]'
	touch $@
