# `make serve` and `make test` work on a fresh machine with Python >= 3.11, pip, make and a C++ compiler.
# ARGS passes flags: make serve ARGS="model.pth --dtype int8", make test ARGS="-k sampler".
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
ARGS ?=
NATIVE := $(wildcard native/*.cpp native/*.hpp native/CMakeLists.txt native/editable/CMakeLists.txt CMakeLists.txt)
KERNELS := $(wildcard src/wingbeat/_kernels.*.so)
CLIENTS := .venv-clients
COMPILER := $(shell command -v $(CXX) || command -v c++ || command -v clang++)

.PHONY: serve test lint wheel smoke clients clean FORCE

serve: $(VENV)/.installed
	@$(BIN)/wingbeat serve $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

wheel: $(VENV)/.installed
	rm -rf dist
	$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

# The wheel in an empty environment, outside the checkout, answers a request.
smoke: wheel
	$(BIN)/python tools/smoke_wheel.py dist/*.whl

# Other people's clients, newest releases, run the recipes of docs/clients.md against the demo model.
clients: $(VENV)/.installed $(CLIENTS)/.installed
	WINGBEAT=$(BIN)/wingbeat NODE_MODULES=$(CLIENTS)/node_modules \
	  $(CLIENTS)/bin/python -m pytest --disable-warnings tests/clients $(ARGS)

$(CLIENTS)/.installed: pyproject.toml tools/make_venv.py
	@$(PYTHON) tools/make_venv.py $(CLIENTS)
	@echo "Installing the clients"
	@$(CLIENTS)/bin/python -m pip --disable-pip-version-check install --quiet --upgrade "pip>=25.1"
	@$(CLIENTS)/bin/python -m pip --disable-pip-version-check install --quiet --upgrade --group clients
	@PATH="$(CURDIR)/$(CLIENTS)/bin:$$PATH" npm install --silent --no-fund --no-audit --prefix $(CLIENTS) openai
	@touch $@

# cmake and ninja come from PyPI into the environment, so that a later build compiles only what changed.
$(VENV)/.build-tools: pyproject.toml tools/make_venv.py
	@$(PYTHON) tools/make_venv.py $(VENV)
	@echo "Fetching the build tools"
	@$(PIP) install --quiet --upgrade "pip>=25.1"
	@$(PIP) install --quiet --group build
	@touch $@

# Python sources are used in place; a change of a native source or of the build compiles anew, and so does a compiler
# that came after an installation without one.
$(VENV)/.installed: $(VENV)/.build-tools $(NATIVE) $(if $(KERNELS),,$(if $(COMPILER),FORCE))
	@echo "Installing wingbeat and compiling its kernels (the first time takes some minutes)"
	@$(PIP) install --quiet --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing what tests and checks need"
	@$(PIP) install --quiet --no-build-isolation --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) $(CLIENTS) build dist src/wingbeat/*.so
	cd native/editable && rm -rf .cmake .ninja_* .skbuild-info.json CMakeCache.txt CMakeFiles CMakeInit.txt \
	  build.ninja cmake_install.cmake wingbeat
