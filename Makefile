# Everything runs in .venv, which is made on first use from pyproject.toml and constraints.txt.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python
WORKERS ?= 2
ORACLES ?= gluon chainer tensorflow torchvision caffe

.PHONY: help venv demo test test-oracles test-all mutations fuzz parity bench lint clean

help:
	@echo "make demo      convert a real trained Caffe SSD, prove it layer by layer, detect faces in a photo"
	@echo "make test      the tests that need nothing but this environment (five minutes)"
	@echo "make test-oracles  the tests against the live source frameworks, which it installs first"
	@echo "make test-all  all of them with lint and the long ones: fuzzing, full-size networks"
	@echo "make fuzz      a million mutants per reader of files, in hours; goes on where it stopped; READERS='coco spec' chooses"
	@echo "make mutations whether the tests notice small faults that are planted one by one (an hour)"
	@echo "make parity    all networks against the oracles that are installed, into PARITY.md; NETWORKS='gluon/* keras/ssd7' chooses"
	@echo "make bench     speed and memory against peers, as ratios; JSON in bench_out/"
	@echo "make lint      ruff and mypy"
	@echo "make clean     remove what the other targets made"

venv:
	@$(PYTHON) -c 'import tomllib' 2>/dev/null || { echo "ssdconv needs Python 3.11 or newer, as python3.11 or by make PYTHON=..." >&2; exit 4; }
	@$(PYTHON) tools/venv.py $(VENV)

demo: venv
	@$(RUN) tools/demo.py .cache/demo demo_out

# Two processes; one file's tests stay together, so that what they share is made once.
PYTEST := $(RUN) -m pytest -q -n $(WORKERS) --dist loadfile

test: venv
	@$(PYTEST) -m "not slow and not oracle" $(ARGS)

# Installs the live source frameworks that are missing (2.4 GB; Caffe is built), each in an interpreter of its own.
test-oracles: venv
	@for name in $(ORACLES); do $(RUN) -m ssdconv oracle install $$name || exit 4; done
	@$(PYTEST) -m "oracle and not slow" $(ARGS)

test-all: lint test test-oracles
	@$(PYTEST) -m slow $(ARGS)

mutations: venv
	@$(RUN) tools/mutations.py $(ARGS)

# Only this target needs atheris, which has wheels for Linux alone.
fuzz: venv
	@$(RUN) -c 'import atheris' 2>/dev/null || $(RUN) -m pip install -q -c constraints.txt atheris
	@$(RUN) tools/fuzz.py $(ARGS) $(READERS)

parity: venv
	@$(RUN) tools/parity.py $(ARGS) $(NETWORKS)

bench: venv
	@$(RUN) bench/run.py $(ARGS)

lint: venv
	@$(RUN) tools/mypy_root.py
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

clean:
	rm -rf $(VENV) .mypy_root .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info demo_out bench_out
