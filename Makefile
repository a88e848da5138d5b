# make run | test | lab | notebooks | lint: each installs first if need be, into .venv
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: run test lab notebooks lint install clean

run: $(INSTALLED)
	$(BIN)/minirlhf run

test: $(INSTALLED)
	$(BIN)/python -m pytest

lab: $(INSTALLED)
	$(BIN)/jupyter lab notebooks

notebooks: $(INSTALLED)
	$(BIN)/python -m minirlhf.course.build --check
	$(BIN)/python -m pytest --nbval-lax --nbval-cell-timeout=300 --nbval-kernel-name=python3 \
	    -p no:doctest -o addopts= -o timeout=900 notebooks

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

install: $(INSTALLED)

$(INSTALLED): requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $(INSTALLED)

clean:
	rm -rf .venv build
