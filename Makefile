# The two commands of the README, and what maintainers run. Everything lives in the checkout: the environment in
# .venv, every cache in .cache.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CACHE  := $(CURDIR)/.cache
MODEL  ?=
ARGS   ?=
JOBS   ?= 2
RESULTS := benchmarks/results

export PIP_CACHE_DIR := $(CACHE)/pip
export HF_HOME := $(CACHE)/huggingface
export MPLCONFIGDIR := $(CACHE)/matplotlib
export TORCHINDUCTOR_CACHE_DIR := $(CACHE)/inductor
export RUFF_CACHE_DIR := $(CACHE)/ruff
export MYPY_CACHE_DIR := $(CACHE)/mypy
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: waits demo test check unit test-serve-step gate gpu-check gpu-evidence gpu-rehearsal bench breadth docs-tables docs matrix clean
.DEFAULT_GOAL := demo

$(VENV)/base.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "halftime needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python could not make a virtual environment. On Debian: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/test.stamp: $(VENV)/base.stamp
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps HolisticTraceAnalysis
	@touch $@

demo: $(VENV)/base.stamp  ## profile the bundled pipeline, 30 steps, and write an HTML report
	$(BIN)/halftime profile $(MODEL) --steps 30 --html out/profile.html $(ARGS)

test: check unit  ## linters, types and the whole test suite

check: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(VENV)/test.stamp  ## a file's tests stay together, in one of JOBS processes; the longest files first; one that dies ends the run
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -o cache_dir=$(CACHE)/pytest $(ARGS)

gate: $(VENV)/test.stamp  ## this commit against the last release, or the one before: counters of the bundled model with our fixes
	HF_HUB_OFFLINE=1 $(BIN)/python scripts/run_action.py python=$(BIN)/python folder=out/gate \
	  options="--recipe scripts/matrix.toml --exact --pictures 0 --steps 2 --size 64" $(ARGS) || \
	  { code=$$?; test $$code = 2 || exit $$code; echo "make gate: one of the two versions cannot be run here, so nothing was judged." >&2; }

test-serve-step: $(VENV)/test.stamp  ## the server's tests, with every server scheduled at the step
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -o cache_dir=$(CACHE)/pytest --scheduling step tests/verbs/serve tests/cli/test_cli_serve.py $(ARGS)

gpu-check: $(VENV)/test.stamp  ## everything that needs a real CUDA device
	$(BIN)/python -m pytest -o cache_dir=$(CACHE)/pytest -m gpu -rA $(ARGS)

gpu-evidence:  ## what a CUDA device shows, in one command: make gpu-evidence PYTHON=python3 ARGS='--budget 8m'
	PYTHONPATH=src $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu.evidence $(ARGS)

gpu-rehearsal: $(VENV)/test.stamp  ## the same with tiny geometry, without a GPU
	$(BIN)/python -m benchmarks.gpu.evidence --rehearse --budget 30m --folder out/gpu-rehearsal $(ARGS)

matrix: $(VENV)/test.stamp  ## the oldest, a middle, the pinned and the newest versions: 20 GB, hours; writes docs/environments.md
	$(BIN)/python scripts/matrix.py $(ARGS)

bench: $(VENV)/test.stamp  ## the benchmarks that need nothing outside this checkout, 6 min 20 s on the project's two cores
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m benchmarks.profile.overhead --out $(RESULTS)/profile_overhead.json
	$(BIN)/python -m benchmarks.trace.reading --out $(RESULTS)/trace_reading.json
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.fix.schedule_table --out $(RESULTS)/fix_schedule_table.json
	$(BIN)/python -m benchmarks.gateway.reach --out $(RESULTS)/gateway_reach.json
	$(BIN)/python -m benchmarks.gateway.planted --out $(RESULTS)/gateway_planted.json

breadth: $(VENV)/test.stamp  ## every fix on every tiny family and in every state; goes on where it was stopped
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.fix.breadth --out $(RESULTS)/fix_breadth.json $(ARGS)
	$(BIN)/python -m benchmarks.fix.breadth_page

PYTHONS ?= $(BIN)/python
waits: $(VENV)/test.stamp  ## the waits of each diffusers release; PYTHONS="VENV/bin/python ..." names an environment of each
	for python in $(PYTHONS); do \
	  OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONPATH=src:. $$python -W ignore -m benchmarks.audit.waits --out $(RESULTS)/audit_waits.json $(ARGS) || exit 1; \
	done
	$(BIN)/python -m benchmarks.audit.waits --out $(RESULTS)/audit_waits.json --page

docs-tables: $(VENV)/test.stamp  ## the tables in docs/ that commands produce
	$(BIN)/python -m benchmarks.audit.coverage
	$(BIN)/python -m workshop.forecast.fit --check --out $(RESULTS)/forecast_check.json --plot docs/forecast-residuals.svg
	$(BIN)/python -m workshop.forecast.page
	$(BIN)/python -m benchmarks.fix.page
	$(BIN)/python -m benchmarks.fix.breadth_page
	$(BIN)/python -m benchmarks.captions.page
	$(BIN)/python -m benchmarks.profile.page
	$(BIN)/python -m benchmarks.gate.page
	$(BIN)/python -m benchmarks.gateway.page
	$(BIN)/python -m benchmarks.serve.page
	$(BIN)/python -m benchmarks.verify.page
	$(BIN)/python -m benchmarks.tune.page
	$(BIN)/python -m benchmarks.gpu.page
	$(BIN)/python -m benchmarks.evidence

docs: $(VENV)/test.stamp  ## the documentation as a site in site/, every link checked
	$(BIN)/mkdocs build --strict --quiet --site-dir site
	@echo "wrote site/index.html"

clean:
	rm -rf $(VENV) $(CACHE) out build dist site
