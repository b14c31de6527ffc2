# `make serve` and `make test` work on a fresh machine with Python >= 3.11, pip, make and a C++ compiler.
# ARGS passes flags: make serve ARGS="model.pth --dtype int8", make test ARGS="-k sampler".
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
ARGS ?=
NATIVE := $(wildcard native/*.cpp native/*.hpp native/CMakeLists.txt native/editable/CMakeLists.txt CMakeLists.txt)
KERNELS := $(wildcard src/wingbeat/_kernels.*.so)
COMPILER := $(shell command -v $(CXX) || command -v c++ || command -v clang++)

.PHONY: serve test lint wheel smoke clean FORCE

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
	rm -rf $(VENV) build dist src/wingbeat/*.so
	cd native/editable && rm -rf .cmake .ninja_* .skbuild-info.json CMakeCache.txt CMakeFiles CMakeInit.txt \
	  build.ninja cmake_install.cmake wingbeat
