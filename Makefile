# The commands of this repository. `make` alone lists them.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo demo-s3 archive test test-slow test-long chaos fuzz check bench notebooks clean

help:  ## list these commands
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-10s %s\n", $$1, $$2 }'

setup: $(VENV)/.dev  ## install everything that tests and checks need into .venv

demo: $(VENV)/.demo archive  ## transcribe the demo archive with Ray on this machine, and print the report
	@$(BIN)/python demos/run.py

demo-s3: $(VENV)/.dev archive  ## the same from and to a local S3 server
	@PYTHONPATH=tests $(BIN)/python demos/with_s3.py $(BIN)/python demos/run.py \
		manifest=s3://quarry/archive/manifest.jsonl output=s3://quarry/out

archive: $(VENV)/.demo  ## make the demo archive (demo/archive) from the speech in demos/speech
	@$(BIN)/python demos/make_archive.py

# Two at a time on any machine: tests that start Ray, servers and models want memory, and much of the time is waiting.
test: $(VENV)/.dev  ## run the tests, without the long ones
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

test-slow: $(VENV)/.dev  ## run the long tests: crashes, fuzzing, long recordings
	$(BIN)/python -m pytest -m slow --timeout 1800

test-long: $(VENV)/.dev  ## transcribe a recording of ten hours, and shorter ones in windows against uncut
	$(BIN)/python -m pytest -m "slow or not slow" --timeout 1800 tests/end_to_end/test_long_recordings.py

chaos: $(VENV)/.dev  ## kill drivers, workers and nodes of runs on a small Ray cluster and a faulty store; prints a table
	$(BIN)/python tests/chaos/storm.py
	$(BIN)/python tests/chaos/storm.py --weather refuse outage --shards 40
	$(BIN)/python tests/chaos/storm.py --weather truncate --shards 200

fuzz: $(VENV)/.dev  ## run over thousands of damaged and hostile files; prints a table
	$(BIN)/python tests/fuzz/media.py

check: $(VENV)/.dev  ## format, lint, types, house rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_house.py tests/test_readme.py

bench: $(VENV)/.dev  ## measure the published figures anew (benchmarks/)
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

notebooks: $(VENV)/.notebooks  ## open the notebooks in JupyterLab, on the demo's run or QUARRY_RUN=folder-or-uri
	$(BIN)/python -m jupyterlab notebooks

clean:  ## remove the environment, caches and what the demo made
	rm -rf $(VENV) demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What is installed is noted in stamp files, so that a second call takes no time. `dev` contains `demo`.
# uv takes seconds where pip takes minutes; where uv is not to be had or does not get through, pip does it.
# The constraints choose PyTorch's CPU build where one is offered; docs/install.md tells how to have another.
INPUTS := pyproject.toml requirements/constraints-cpu.txt

$(VENV)/.demo: $(INPUTS) | $(BIN)/python
	@if [ -e $(VENV)/.dev ]; then $(MAKE) --no-print-directory $(VENV)/.dev; else $(call install,demo); fi
	@touch $@

$(VENV)/.dev: $(INPUTS) | $(BIN)/python
	@$(call install,dev)
	@touch $@

$(VENV)/.notebooks: $(INPUTS) | $(BIN)/python
	@$(call install,notebooks)
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Quarry needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	-@$(BIN)/python -m pip install --quiet uv

define install
echo "installing Quarry with its '$(1)' extra into $(VENV)"; \
{ $(BIN)/python -m uv --version >/dev/null 2>&1 && UV_FIND_LINKS="$${UV_FIND_LINKS:-$${PIP_FIND_LINKS:-}}" \
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python -c requirements/constraints-cpu.txt -e '.[$(1)]'; } || \
	$(BIN)/python -m pip install --quiet -c requirements/constraints-cpu.txt -e '.[$(1)]'
endef
