# Everything from a fresh checkout, in .venv. Needs Python 3.11 or newer and, the first time, a package index for pip.
#
#   make figures              regenerate every rate figure      make figures ARGS=--quick
#   make gap                  measure the gap of the embedded text-to-image model, with a report
#   make test                 run the tests                     make test ARGS="-k terminal_law"
#   make lint                 style, formatting and types
#   make bench                speed, beside torchsde, diffusers and the physical limit
#
# PYTHON chooses the interpreter that .venv is made with:  make test PYTHON=python3.12
# A .venv that is there already is used as it is, with what it holds (a build of torch, say).

PYTHON ?= python3
ARGS ?=
VENV := .venv
RUN := $(VENV)/bin/python
CHECK := import sys; sys.version_info >= (3, 11) or sys.exit("gapbound needs Python 3.11 or newer; \
  $(PYTHON) is %d.%d: name another, as in make PYTHON=python3.12" % sys.version_info[:2])

.PHONY: help figures gap test lint bench
.NOTPARALLEL:  # one pip at a time in .venv

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

figures: $(VENV)/.installed-analysis
	$(RUN) -m analysis.plot_rates $(ARGS)

gap: $(VENV)/.installed-empirical
	$(RUN) -m empirical.measure_gap $(ARGS)

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 $(ARGS)

lint: $(VENV)/.installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

bench: $(VENV)/.installed-bench
	$(RUN) -m analysis.benchmarks.speed $(ARGS)

# The .pth file makes analysis/ and empirical/, which no wheel holds, importable from any folder.
# One stamp for each extra of pyproject.toml: installed once, and again when a requirement or a pin changes.
$(VENV)/.installed-%: pyproject.toml constraints.txt
	@$(RUN) -m pip --version >/dev/null 2>&1 || { $(PYTHON) -c '$(CHECK)' && $(PYTHON) -m venv $(VENV); }
	$(RUN) -m pip install -c constraints.txt -e '.[$*]'
	@echo '$(CURDIR)' > "$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/gapbound-checkout.pth"
	@touch $@
