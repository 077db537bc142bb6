# make demo   set up, and repair the image that ships with the package
# make test   set up, and run all tests
# make pyside6  the tests of the plugin with the other Qt binding, in .venv-pyside6
# make lint   set up, and run the linters and the type checker
# make clean  remove what the others made
#
# Another Python or folder: make test PYTHON=python3.12 VENV=../env

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
SAMPLE = knitcore/samples/damaged_micrograph
DEPS = pyproject.toml constraints.txt napari.yaml scripts/setup.sh

.PHONY: help demo test pyside6 lint clean

help:
	@sed -n 's/^# make/make/p' Makefile

demo: $(VENV)/.ready-all
	mkdir -p demo
	$(BIN)/knit inpaint $(SAMPLE).tif --mask $(SAMPLE)_mask.png \
	    --output demo/repaired_micrograph.tif --save-std --overwrite
	$(BIN)/python scripts/before_after.py $(SAMPLE).tif demo/repaired_micrograph.tif \
	    demo/before_after.png
	@echo
	@echo "The repaired image is demo/repaired_micrograph.tif;"
	@echo "demo/before_after.png shows it beside the damaged one."
	@echo "To look at it in napari: $(BIN)/napari, then File > Open Sample > Knitworks."

test: $(VENV)/.ready-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

pyside6: $(VENV)-pyside6/.ready-pyside6
	QT_API=pyside6 $(VENV)-pyside6/bin/python -m pytest tests/plugin

lint: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/npe2 validate --imports napari-knitworks

$(VENV)/.ready-all: $(DEPS)
	PYTHON="$(PYTHON)" sh scripts/setup.sh "$(VENV)" all
	touch $@

$(VENV)/.ready-test: $(DEPS)
	PYTHON="$(PYTHON)" sh scripts/setup.sh "$(VENV)" all,test
	touch $@ $(VENV)/.ready-all

$(VENV)-pyside6/.ready-pyside6: $(DEPS)
	PYTHON="$(PYTHON)" sh scripts/setup.sh "$(VENV)-pyside6" pyside6,test
	touch $@

clean:
	rm -rf "$(VENV)" "$(VENV)-pyside6" demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
