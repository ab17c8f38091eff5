# Each target sets up what it needs: a virtual environment with the package, made once for a pyproject.toml.
# A plain install takes the newest PyTorch of the registry (several GB with CUDA, and it runs on the CPU too).
VENV ?= .venv
PYTHON ?= python3
# Test processes; the tests themselves run on one thread each.
JOBS ?= 2

.PHONY: quickstart test test-random lint docs bench pictures
.DELETE_ON_ERROR:

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "contagg needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

# One thread: where other processes hold a core, two wait for each other and take many times as long.
quickstart: export OMP_NUM_THREADS = 1
quickstart: $(VENV)/installed
	$(VENV)/bin/contagg predict container_light_tiny.caltech101 docs/pictures/photo_*.jpg
	$(VENV)/bin/contagg inspect explore container_light_tiny.caltech101 docs/pictures/photo_starfish.jpg -o runs/quickstart/explorer.html
	$(VENV)/bin/contagg fit -c digits

test: $(VENV)/installed-dev
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || echo "no Chromium: the explorer's page is not opened in a browser (apt-get install chromium chromium-driver)"
	$(VENV)/bin/python -m pytest -n $(JOBS)

test-random: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest -n $(JOBS) -p randomly

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check src tests tools
	$(VENV)/bin/ruff format --check src tests tools
	$(VENV)/bin/mypy

# Into build/site; a link that leads nowhere and a module that is gone are errors.
docs: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build

bench: $(VENV)/installed-dev
	$(VENV)/bin/contagg bench table1

# Of README.md and docs/gallery.md: two minutes of a CPU, half of them the quickstart where it has not run yet.
pictures: quickstart $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m tools.pictures
