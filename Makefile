# cconvnet: all compile rules and common commands. `make help` lists the targets.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# Network, data and device of `make train`; further options: ARGS="--epochs 3 --seed 7".
NET ?= lenet
DATA ?=
DEVICE ?=
ARGS ?=

comma := ,
# Any text, quoted as one word of the shell.
quoted = '$(subst ','\'',$(1))'

# Which modules are built: CCONVNET_CUDA=auto (when nvcc is found), on (fail without it) or off;
# CCONVNET_CPU=on, or off to leave the CPU device to NumPy. CCONVNET_MODULES="cpu cuda emulator" chooses among them;
# the default is all, and `device` stands for the one that this machine trains on. CCONVNET_ARCHS="80 90a 120 ptx"
# names the GPU architectures; the default is the present GPU's, else that list. ONEDNN_ROOT names the folder of another
# oneDNN 3 than the PyPI package's.
CCONVNET_CUDA ?= auto
CCONVNET_CPU ?= on
CCONVNET_MODULES ?=
export CCONVNET_CUDA CCONVNET_CPU CCONVNET_ARCHS ONEDNN_ROOT

VENV := .venv
# The Python whose headers and build requirements the modules are compiled against, and where they go.
PYTHON ?= $(VENV)/bin/python
OUT ?= cconvnet
# Instrumented modules have their own objects and their own OUT: SANITIZE=address,undefined
SANITIZE ?=
# Sources of kernels whose emulator is compiled for a debugger: DEBUG="lrn conv_fprop", or all.
DEBUG ?=
# Sources of kernels of which nvcc makes objects, without a module: CUDA_KERNELS="lrn conv_fprop".
CUDA_KERNELS ?=
# A compiler may want 1.5 GiB, so a small machine runs fewer of them.
JOBS ?= $(shell awk -v cores=$$(nproc) '/MemTotal/ { jobs = int($$2 / 1500000); \
                print (jobs < 1 ? 1 : jobs < cores ? jobs : cores) }' /proc/meminfo)

# `make gpu-report` writes into REPORT within MINUTES: all parts, or PARTS="kernels step", or all but SKIP="tests".
REPORT ?= report
PARTS ?=
SKIP ?=
MINUTES ?= 9.5
# SECONDS on the command line overrides MINUTES; in the environment it is the shell's own variable.
REPORT_SECONDS := $(if $(filter command line,$(origin SECONDS)),$(SECONDS))
# The architecture whose code `make machine-code` reads.
ARCH ?= sm_90a

.PHONY: help jobs train venv base cpu cuda emulator emulator-debug packages test test-quick test-times check-long lint linted \
    dev format docs clean modules counting gpu-report sanitize machine-code results wheel

jobs:
	@echo $(JOBS)

help:
	@sed -nE 's/^##@ (.*)/\n\1/p; s/^([a-z-]+):[^#]*## (.*)/  \1\t\2/p' Makefile | expand -t 18

# ---- set-up and use ---------------------------------------------------------------------------------------

# Everything runs in .venv: a newcomer needs nothing but Python and a C++ compiler.
BASE_PYTHON = $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
                $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
define PREREQUISITES
case "$$PWD" in *[$$]*) echo "The checkout's path may hold no dollar sign, which setuptools takes for a variable: $$PWD"; exit 1;; esac; \
test -n "$(BASE_PYTHON)" || { echo "cconvnet needs Python 3.11 or newer: apt-get install python3 python3-venv python3-dev (or your system's like)"; exit 1; }; \
$(BASE_PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing: apt-get install python3-venv"; exit 1; }; \
$(BASE_PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || { echo "Python's headers are missing: apt-get install python3-dev"; exit 1; }; \
missing=$$($(COMPILER_MISSING)); test -z "$$missing" || { echo "$$missing"; exit 1; }
endef

# Prints the missing parts of a compiler; `pip install` uses it through `make modules`.
define COMPILER_MISSING
if ! command -v $(firstword $(CXX)) >/dev/null; then echo "A C++17 compiler is missing ($(CXX)): apt-get install g++"; \
elif test "$(CCONVNET_CPU)" != off && ! echo "#include <omp.h>" | $(CXX) $(CXXFLAGS) -fopenmp -fsyntax-only -x c++ -; then \
  echo "OpenMP is missing ($(CXX) finds no omp.h): apt-get install libomp-dev for clang, or build with g++"; fi
endef

PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile
# make builds the modules, so setup.py need not.
PIP_EDITABLE := CCONVNET_MODULES=none $(PIP) --no-build-isolation --editable

# Prints a list of pyproject.toml, line by line.
required = $(VENV)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))$(1), sep="\n")'

# Builds modules ($(1), as CCONVNET_MODULES names them) while packages are installed up to a stamp ($(2)).
build = $(MAKE) --silent --no-print-directory -j$(JOBS) CCONVNET_MODULES="$(1)" $(VENV)/$(2) packages modules

$(VENV)/.requirements: pyproject.toml
	@$(PREREQUISITES)
	@test -x $(VENV)/bin/python || $(BASE_PYTHON) -m venv $(VENV)
	@echo "Installing packages into $(VENV)"
	@$(call required,["build-system"]["requires"]) > $(VENV)/build-requirements.txt
	@$(PIP) -r $(VENV)/build-requirements.txt
	@touch $@

$(VENV)/.installed: pyproject.toml setup.py | $(VENV)/.requirements
	@$(PIP_EDITABLE) '.[plot,fast-jpeg]'
	@touch $@

# Packages for tests and linters.
$(VENV)/.installed-dev: $(VENV)/.installed
	@$(PIP_EDITABLE) '.[plot,fast-jpeg,dev,docs]'
	@touch $@

# CuPy, which the CUDA module needs on a GPU, for the CUDA of its driver.
$(VENV)/.installed-cuda: $(VENV)/.installed
	@$(VENV)/bin/python -c 'import cupy' 2>/dev/null || $(PIP) $(call quoted,$(CUPY))
	@touch $@

##@ First steps

# The modules of the devices that DEVICE, or --device in ARGS, names; else that of this machine's default device.
NAMED_DEVICES := $(subst $(comma), ,$(subst =, ,$(DEVICE) $(ARGS)))
NAMED_MODULES := $(foreach kind,cpu cuda emulator,$(if $(filter $(kind) $(kind):%,$(NAMED_DEVICES)),$(kind)))
TRAIN_MODULES = $(or $(CCONVNET_MODULES),$(strip $(NAMED_MODULES)),$(if $(filter reference%,$(NAMED_DEVICES)),base,device))

train: $(VENV)/.requirements  ## train NET (lenet) on DATA (the embedded digits) on DEVICE (a GPU if there is one)
	@$(call build,$(TRAIN_MODULES),.installed)
	@touch -d '1 second ago' $(VENV)/.training
	@$(VENV)/bin/cconvnet train --net $(NET) $(if $(DATA),--data $(call quoted,$(DATA))) $(if $(DEVICE),--device $(DEVICE)) $(ARGS)
	@summary=$$(find runs -mindepth 2 -maxdepth 2 -name summary.json -newer $(VENV)/.training 2>/dev/null | tail -n 1); \
	test -z "$$summary" || grep -q '"complete": true' "$$summary" || exit 0; run=$${summary%/summary.json}; \
	echo; echo "What next:"; \
	echo "  $(VENV)/bin/cconvnet report $${run:-RUN} --open    # its curves, filters and mistakes on one page"; \
	echo "  make train DATA=FOLDER                     # your own pictures, in FOLDER/train/CLASS and FOLDER/test/CLASS"; \
	echo "  make test                                  # builds all modules, then tests them"

venv: $(VENV)/.requirements  ## build everything and install it for development in .venv
	@$(call build,$(CCONVNET_MODULES),.installed)

##@ Modules

cpu: $(VENV)/.requirements  ## build the module that trains on the CPU, with oneDNN
cuda: $(VENV)/.requirements  ## build the module that trains on GPUs; needs nvcc
emulator: $(VENV)/.requirements  ## build the module that runs the CUDA kernels without a GPU
# The module of problems and that of pictures, which everything needs, are part of each of them.
base: $(VENV)/.requirements
base cpu cuda emulator:
	@$(call build,$@,.installed) $(if $(filter cuda,$@),CCONVNET_CUDA=on)

emulator-debug: base  ## the same for gdb, all kernels or KERNELS="lrn fc", in build/debug
	@$(call build,emulator,.installed) MODULES=_emulator DEBUG="$(or $(KERNELS),all)" OUT=build/debug
	@echo "CCONVNET_MODULE_PATH=build/debug gdb -x tools/cuda_gdb.py --args PROGRAM uses it; see docs/debugging-kernels.md"

counting: base  ## the emulator that counts memory accesses and finds races; needs g++
	@$(call build,counting,.installed)

##@ Development

# Each process has a share of the files, so that fixtures of a file are made once, and takes over tests of others at
# the end.
PYTEST = $(VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal
TESTED_MODULES = $(or $(CCONVNET_MODULES),cpu cuda emulator counting)

test: $(VENV)/.requirements  ## build everything and run the tests
	@$(call build,$(TESTED_MODULES),.installed-dev)
	@test -n $(call quoted,$(ARGS)) || $(VENV)/bin/python tests/helpers/durations.py $(JOBS)
	@$(PYTEST) $(ARGS)

test-quick: $(VENV)/.requirements  ## the same without the tests that are recorded as slow
	@$(call build,$(TESTED_MODULES),.installed-dev)
	@$(PYTEST) --quick $(ARGS)

test-times: $(VENV)/.requirements  ## run the tests on an idle machine, and record how long each takes
	@$(call build,$(TESTED_MODULES),.installed-dev)
	@$(PYTEST) --record-durations $(ARGS)

check-long: $(VENV)/.requirements  ## run all tests, the slow ones too: 3,000 random shapes, kills, mutants
	@$(call build,$(TESTED_MODULES),.installed-dev)
	@$(PYTEST) -m 'long or not long' --override-ini faulthandler_timeout=10800 $(ARGS)

# What they write is committed.
GENERATORS := problem_stubs training_keywords reference

lint: $(VENV)/.requirements  ## ruff, mypy, clang-format and fresh references, changing nothing
	@$(call build,base,.installed-dev) linted

linted: $(VENV)/.installed-dev
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy
	@for tool in $(GENERATORS); do $(VENV)/bin/python tools/$$tool.py --check || exit 1; done
	@git ls-files '*.cu' '*.cuh' '*.h' '*.cpp' | xargs $(VENV)/bin/clang-format --dry-run --Werror

# For CI, which lints while modules are compiled.
dev: $(VENV)/.requirements
	@$(call build,$(TESTED_MODULES),.installed-dev) linted

format: $(VENV)/.requirements  ## format every source file, and write the reference in docs/
	@$(call build,base,.installed-dev)
	@for tool in $(GENERATORS); do $(VENV)/bin/python tools/$$tool.py || exit 1; done
	@$(VENV)/bin/ruff check --fix . ; $(VENV)/bin/ruff format .
	@git ls-files '*.cu' '*.cuh' '*.h' '*.cpp' | xargs $(VENV)/bin/clang-format -i

docs: $(VENV)/.requirements  ## build the site of docs/ in build/site
	@$(call build,base,.installed-dev)
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --quiet && echo "build/site/index.html opens in a browser"

# Tools that complete a wheel.
$(VENV)/.installed-wheel: $(VENV)/.requirements
	@$(call required,["project"]["optional-dependencies"]["wheel"]) > $(VENV)/wheel-requirements.txt
	@$(PIP) -r $(VENV)/wheel-requirements.txt
	@touch $@

wheel: $(VENV)/.installed-wheel  ## make a wheel for other machines in dist/; CCONVNET_CUDA=off: for CPUs alone
	@$(VENV)/bin/python tools/wheel.py $(ARGS)

# ---- measurements -----------------------------------------------------------------------------------------

##@ Measurements

# Packages that measurements on a GPU compare with.
$(VENV)/.installed-bench: $(VENV)/.installed-dev
	@$(PIP_EDITABLE) '.[plot,fast-jpeg,dev,docs,cuda,bench]'
	@touch $@

# Any other PYTHON is used unchanged, with its packages; modules are built in place for it.
REPORT_DEVICE := $(or $(DEVICE),cuda:0)
ifeq ($(PYTHON),$(VENV)/bin/python)
REPORT_NEEDS := $(VENV)/.installed-$(if $(filter cuda%,$(REPORT_DEVICE)),bench,dev)
RESULTS_NEEDS := base
MACHINE_CODE_NEEDS := $(if $(KERNELS),base,venv) $(VENV)/.installed-dev
endif
GPU_REPORT = $(call quoted,$(PYTHON)) benchmarks/gpu_report --device $(REPORT_DEVICE)

gpu-report: $(REPORT_NEEDS)  ## build, test and measure on a GPU in MINUTES (9.5), into the folder REPORT
	@$(GPU_REPORT) $(call quoted,$(REPORT)) --parts "$(PARTS)" --skip "$(SKIP)" \
	    $(if $(REPORT_SECONDS),--seconds $(REPORT_SECONDS),--minutes $(MINUTES)) $(if $(DATA),--data $(call quoted,$(DATA))) $(ARGS)

sanitize: $(REPORT_NEEDS)  ## run compute-sanitizer's four tools over every kernel (DEVICE=emulator:0: the compiler's)
	@$(GPU_REPORT) build/sanitize-report --parts "build sanitize-all" --minutes 60

machine-code: $(MACHINE_CODE_NEEDS)  ## registers and instructions of CUDA kernels, all or KERNELS="lrn fc"; needs no GPU
	@$(if $(KERNELS),$(MAKE) --silent --no-print-directory -j$(JOBS) modules CCONVNET_MODULES=cuda CCONVNET_CUDA=on \
	    MODULES= CUDA_KERNELS="$(KERNELS)")
	@$(call quoted,$(PYTHON)) benchmarks/machine_code.py --arch $(ARCH) $(KERNELS:%=build/*/cuda/%.o) $(ARGS)

results: $(RESULTS_NEEDS)  ## write the tables and pictures of docs/performance.md from benchmarks/results
	@$(call quoted,$(PYTHON)) benchmarks/results.py $(ARGS)

##@ Files

clean:  ## remove what was built (.venv and runs stay)
	@rm -rf build dist *.egg-info cconvnet/*.so

# ---- compile rules ----------------------------------------------------------------------------------------
# Evaluated only where something is compiled: they ask PYTHON about this machine.

ifneq ($(filter modules,$(MAKECMDGOALS)),)

ifneq ($(word 2,$(OUT)),)
$(error OUT may hold no spaces: $(OUT))
endif
missing := $(shell $(COMPILER_MISSING))
ifneq ($(missing),)
$(error $(missing))
endif

# Before make 4.4 no variable of make is in the environment of $(shell).
SETTINGS := $(foreach name,CCONVNET_ARCHS ONEDNN_ROOT CUDA_HOME,$(if $($(name)),$(name)=$(call quoted,$($(name)))))
# Lines come back from the shell as words, so a character that no path has stands for their spaces meanwhile.
mark := $(shell printf '\001')
$(foreach line,$(shell $(SETTINGS) $(call quoted,$(PYTHON)) tools/compile_settings.py $(CXX) | tr ' ' '\001'),$(eval $(subst $(mark), ,$(line))))
ifeq ($(EXT),)
$(error $(PYTHON) cannot tell how to build: run `make venv`)
endif

BUILD := build/$(firstword $(subst ., ,$(EXT)))$(if $(SANITIZE),-sanitize)

# The module of the device that training takes without --device: a GPU's if one is here and nvcc can build for it.
DEVICE_MODULE := $(if $(and $(GPU_ARCHS),$(NVCC),$(filter-out off,$(CCONVNET_CUDA))),cuda,cpu)
WANTED := $(patsubst device,$(DEVICE_MODULE),$(or $(strip $(CCONVNET_MODULES)),cpu cuda emulator))
ifneq ($(filter-out base cpu cuda emulator counting,$(WANTED)),)
$(error CCONVNET_MODULES may name cpu, cuda, emulator, counting, device or base (none of these), not $(filter-out base cpu cuda emulator counting,$(WANTED)))
endif
MODULES := _problem _pixels $(if $(filter emulator,$(WANTED))$(SANITIZE),_emulator)
ifneq ($(filter counting,$(WANTED)),)
ifneq ($(findstring clang,$(shell $(CXX) --version)),)
$(info cconvnet: no module that counts memory accesses, which needs g++ (CXX))
else
MODULES += _counting
endif
endif

# -Wno-psabi: functions that take vectors wider than the baseline's are all inlined, so none is ever passed.
WARNINGS := -Wall -Wextra -Wno-unknown-pragmas -Wno-psabi
CXX_ALL := $(CXX) -std=c++17 -g1 -fPIC -fvisibility=hidden $(WARNINGS) -Ikernels -MMD -MP $(CXXFLAGS)
SANITIZED := $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
# Bindings only describe and check; -O1 compiles them faster and costs nothing.
BINDINGS_FLAGS := -O1
PIXELS_FLAGS := $(if $(SANITIZE),-O1 $(SANITIZED),-O3)
DEBUG_FLAGS := -DCCONVNET_EMULATOR -O0 -g3 -fno-omit-frame-pointer
# -fsanitize=thread announces accesses to kernels/emulator/counting.cpp. The other options keep each access as
# written: a vector in one piece, and one instruction for all lanes.
COUNTING_FLAGS := -DCCONVNET_EMULATOR -DCCONVNET_COUNTING -O1
COUNTED_FLAGS := $(COUNTING_FLAGS) -fno-tree-sra -fno-thread-jumps -fsanitize=thread
EMULATOR_FLAGS := -DCCONVNET_EMULATOR $(if $(SANITIZE),-O1 $(SANITIZED),-O2)

CUDA_SOURCES := $(wildcard kernels/*.cu kernels/gemm/*.cu)
CPU_SOURCES := $(wildcard kernels/cpu/*.cpp)
CUDA_OBJECTS := $(CUDA_SOURCES:kernels/%.cu=$(BUILD)/cuda/%.o)
# Those compiled for a debugger come first, so that the functions which all files share can be seen by it.
DEBUG_SOURCES := $(filter $(if $(filter all,$(DEBUG)),%,$(DEBUG:%=kernels/%.cu)),$(CUDA_SOURCES))
no_kernels := $(filter-out all $(CUDA_SOURCES:kernels/%.cu=%),$(DEBUG)) $(filter-out $(CUDA_SOURCES:kernels/%.cu=%),$(CUDA_KERNELS))
ifneq ($(strip $(no_kernels)),)
$(error KERNELS names no file kernels/*.cu: $(strip $(no_kernels)))
endif
EMULATOR_OBJECTS := $(DEBUG_SOURCES:kernels/%.cu=$(BUILD)/debug/%.o) \
    $(patsubst kernels/%.cu,$(BUILD)/emulator/%.o,$(filter-out $(DEBUG_SOURCES),$(CUDA_SOURCES)))
COUNTING_OBJECTS := $(CUDA_SOURCES:kernels/%.cu=$(BUILD)/counting/%.o) $(BUILD)/counting/emulator/counting.o
BINDINGS_SOURCES := $(filter-out %/module.cpp %/problem.cpp %/pixels.cpp,$(wildcard bindings/*.cpp))
# Host code that is the same for every build of the operations: their descriptions, and what is no template.
SHARED_OBJECTS := $(BINDINGS_SOURCES:bindings/%.cpp=$(BUILD)/bindings/%.o) \
    $(patsubst kernels/core/%.cpp,$(BUILD)/bindings/core/%.o,$(wildcard kernels/core/*.cpp))
CPU_OBJECTS := $(CPU_SOURCES:kernels/cpu/%.cpp=$(BUILD)/cpu/%.o)

ifneq ($(SANITIZE),)
# Only two modules are worth instrumenting: the emulator, where the line of a kernel that leaves its buffers is
# named, and _pixels, which reads images of unknown origin.
else ifeq ($(filter cpu,$(WANTED)),)
else ifeq ($(CCONVNET_CPU),off)
$(info cconvnet: no CPU module (CCONVNET_CPU=off); the CPU device will run on NumPy)
else ifneq ($(ONEDNN_ERROR),)
$(error $(ONEDNN_ERROR))
else ifeq ($(ONEDNN),)
$(info cconvnet: no CPU module ($(ONEDNN_MISSING)); the CPU device will run on NumPy)
else
MODULES += _cpu
endif

ifneq ($(SANITIZE)$(filter off,$(CCONVNET_CUDA)),)
else ifeq ($(filter cuda,$(WANTED)),)
else ifneq ($(NVCC),)
$(info cconvnet: CUDA module with $(NVCC) for $(ARCHS))
MODULES += _cuda
else ifeq ($(CCONVNET_CUDA),on)
$(error CCONVNET_CUDA=on, but nvcc was not found: install the CUDA toolkit or set CUDA_HOME)
else
$(info cconvnet: no CUDA module (nvcc not found; CUDA_HOME names its toolkit))
endif

modules: $(MODULES:%=$(OUT)/%$(EXT)) $(CUDA_KERNELS:%=$(BUILD)/cuda/%.o)  ## compile the modules alone, for PYTHON into OUT
	@:

# The references are made from what these modules contain.
linted: $(OUT)/_problem$(EXT) $(OUT)/_pixels$(EXT)

# Besides the package itself: CuPy for a GPU.
packages: $(VENV)/.installed $(if $(and $(GPU_ARCHS),$(filter _cuda,$(MODULES))),$(VENV)/.installed-cuda)
	@:

# A stamp that changes when the flags do, so that objects of another set of flags are never linked.
define flags_stamp
$(shell mkdir -p $(BUILD)/$(1))$(if $(subst /$(strip $(2))/,,/$(file <$(BUILD)/$(1)/flags)/),$(file >$(BUILD)/$(1)/flags,$(strip $(2))))
endef
$(call flags_stamp,bindings,$(CXX_ALL) $(BINDINGS_FLAGS))
$(call flags_stamp,pixels,$(CXX_ALL) $(PIXELS_FLAGS))
$(call flags_stamp,emulator,$(CXX_ALL) $(EMULATOR_FLAGS))
$(call flags_stamp,counting,$(CXX_ALL) $(COUNTED_FLAGS))
ifneq ($(DEBUG),)
$(call flags_stamp,debug,$(CXX_ALL) $(DEBUG_FLAGS))
$(call flags_stamp,debug/sources,$(DEBUG_SOURCES))
$(OUT)/_emulator$(EXT): $(BUILD)/debug/sources/flags
endif
$(call flags_stamp,cpu,$(CXX_ALL) $(ONEDNN_FLAGS) $(ONEDNN))
$(call flags_stamp,cuda,$(NVCC) $(GENCODE) $(CXXFLAGS))

# Each step is numbered among those that a dry run counts. make expands a recipe once, when the step begins.
COUNTED := [cconvnet-step]
ifdef COUNTING
STEP := $(COUNTED)
else
STEPS := $(shell MAKEFLAGS=$(call quoted,-- $(MAKEOVERRIDES)) $(MAKE) -n$(findstring B,$(firstword -$(MAKEFLAGS))) modules \
    COUNTING=1 2>/dev/null | grep -cF $(call quoted,$(COUNTED)))
step_number = $(words $(done))$(eval done := $(done) x)
done := x
STEP = [$(step_number)/$(STEPS)]

ifneq ($(and $(filter device,$(CCONVNET_MODULES)),$(filter-out 0,$(STEPS))),)
no_gpu := $(if $(GPU_ARCHS),$(if $(NVCC),CCONVNET_CUDA=off,a GPU but no nvcc (CUDA_HOME names its toolkit)),no usable GPU)
$(info cconvnet: $(if $(filter cuda,$(DEVICE_MODULE)),a GPU,$(no_gpu)), so only the module _$(DEVICE_MODULE) is built for \
  training; to build others: $(patsubst %,make %$(comma),$(filter-out $(DEVICE_MODULE),cpu cuda) emulator) or make venv for all)
endif
endif

$(BUILD)/pixels/%.o: bindings/%.cpp $(BUILD)/pixels/flags
	@echo "$(STEP) c++   $<"; $(CXX_ALL) $(PIXELS_FLAGS) $(PYTHON_INCLUDES) -c $< -o $@

$(BUILD)/emulator/%.o: kernels/%.cu $(BUILD)/emulator/flags
	@mkdir -p $(@D); echo "$(STEP) c++   $< (emulator)"; $(CXX_ALL) $(EMULATOR_FLAGS) -x c++ -c $< -o $@

$(BUILD)/counting/%.o: kernels/%.cu $(BUILD)/counting/flags
	@mkdir -p $(@D); echo "$(STEP) c++   $< (counting)"; $(CXX_ALL) $(COUNTED_FLAGS) -x c++ -c $< -o $@

# Not announced: what counts.
$(BUILD)/counting/emulator/counting.o: kernels/emulator/counting.cpp $(BUILD)/counting/flags
	@mkdir -p $(@D); echo "$(STEP) c++   $<"; $(CXX_ALL) $(COUNTING_FLAGS) -O2 -c $< -o $@

$(BUILD)/counting/module.o: bindings/module.cpp $(BUILD)/counting/flags
	@echo "$(STEP) c++   $< (counting)"
	@$(CXX_ALL) $(COUNTING_FLAGS) -DCCONVNET_MODULE=_counting $(PYTHON_INCLUDES) -c $< -o $@

$(BUILD)/debug/%.o: kernels/%.cu $(BUILD)/debug/flags
	@mkdir -p $(@D); echo "$(STEP) c++   $< (for a debugger)"; $(CXX_ALL) $(DEBUG_FLAGS) -x c++ -c $< -o $@

# Square roots and comparisons only become vector code where nobody asks for errno or for floating-point traps.
$(BUILD)/cpu/%.o: kernels/cpu/%.cpp $(BUILD)/cpu/flags
	@echo "$(STEP) c++   $<"
	@$(CXX_ALL) -O3 -fopenmp -fno-math-errno -fno-trapping-math $(ONEDNN_FLAGS) -c $< -o $@

# Kernels for one chip alone are compiled for no other, where they would be nothing but traps.
ifneq ($(findstring 90a,$(ARCHS)),)
$(addprefix $(BUILD)/cuda/,conv_halo.o conv_wgmma.o fc_cluster.o fc_update.o): GENCODE := -gencode arch=compute_90a,code=sm_90a
endif

# nvcc's resource report is kept beside the object. Registers spilled to memory fail the build, and so does advice
# of ptxas that it made the code slower than written (C75xx: serialized wgmma, ignored setmaxnreg).
$(BUILD)/cuda/%.o: kernels/%.cu $(BUILD)/cuda/flags
	@mkdir -p $(@D); echo "$(STEP) nvcc  $<"
	@$(NVCC) -std=c++17 -O3 -lineinfo $(GENCODE) -Ikernels -MMD -MP -MF $(@:.o=.d) -Xcompiler -fPIC,-fvisibility=hidden \
	    -DCCONVNET_ARCHS='"$(ARCHS)"' -Xptxas -v -c $< -o $@ >$(@:.o=.ptxas) 2>&1 || \
	    { grep -v '^ptxas info' $(@:.o=.ptxas) >&2; exit 1; }
	@grep -vE '^ptxas info|^ *[0-9]+ bytes stack frame' $(@:.o=.ptxas) >&2 || true
	@! grep -E '[1-9][0-9]* bytes (stack frame|spill)' $(@:.o=.ptxas) || \
	    { rm -f $@; echo "$<: a kernel spills registers or uses local memory; see $(@:.o=.ptxas)" >&2; exit 1; }
	@! grep -E '\(C75[0-9]+\)' $(@:.o=.ptxas) >&2 || \
	    { rm -f $@; echo "$<: ptxas made a kernel slower than written; see $(@:.o=.ptxas)" >&2; exit 1; }

$(BUILD)/bindings/%.o: bindings/%.cpp $(BUILD)/bindings/flags
	@echo "$(STEP) c++   $<"; $(CXX_ALL) $(BINDINGS_FLAGS) $(PYTHON_INCLUDES) -c $< -o $@

# Compiled anew when any kernel changes: proofs of rows by a GPU are of the kernels with this digest.
$(BUILD)/bindings/core/digest.o: kernels/core/digest.cpp $(wildcard kernels/*.* kernels/core/* kernels/gemm/*) \
    tools/kernel_digest.py $(BUILD)/bindings/flags
	@mkdir -p $(@D); echo "$(STEP) c++   $<"; digest=$$($(call quoted,$(PYTHON)) tools/kernel_digest.py) && \
	    $(CXX_ALL) $(BINDINGS_FLAGS) -DCCONVNET_KERNEL_DIGEST="\"$$digest\"" -c $< -o $@

$(BUILD)/bindings/core/%.o: kernels/core/%.cpp $(BUILD)/bindings/flags
	@mkdir -p $(@D); echo "$(STEP) c++   $<"; $(CXX_ALL) $(BINDINGS_FLAGS) -c $< -o $@

$(BUILD)/emulator/module.o: bindings/module.cpp $(BUILD)/emulator/flags
	@echo "$(STEP) c++   $< (emulator)"
	@$(CXX_ALL) $(EMULATOR_FLAGS) -DCCONVNET_MODULE=_emulator $(PYTHON_INCLUDES) -c $< -o $@

$(BUILD)/cpu/module.o: bindings/module.cpp $(BUILD)/cpu/flags
	@echo "$(STEP) c++   $< (cpu)"; $(CXX_ALL) -O2 -DCCONVNET_MODULE=_cpu $(PYTHON_INCLUDES) -c $< -o $@

$(BUILD)/cuda/module.o: bindings/module.cpp $(BUILD)/cuda/flags
	@echo "$(STEP) c++   $< (cuda)"
	@$(CXX_ALL) -O2 -DCCONVNET_MODULE=_cuda -DCCONVNET_DEVICE_ARRAYS $(PYTHON_INCLUDES) -c $< -o $@

$(OUT)/_problem$(EXT): $(BUILD)/bindings/problem.o
	@mkdir -p $(OUT); echo "$(STEP) link  $@"; $(CXX) -shared $^ -o $@

$(OUT)/_pixels$(EXT): $(BUILD)/pixels/pixels.o
	@mkdir -p $(OUT); echo "$(STEP) link  $@"; $(CXX) -shared $(SANITIZED) $^ -o $@

$(OUT)/_emulator$(EXT): $(EMULATOR_OBJECTS) $(BUILD)/emulator/module.o $(SHARED_OBJECTS)
	@mkdir -p $(OUT); echo "$(STEP) link  $@"; $(CXX) -shared $(SANITIZED) $(filter %.o,$^) -o $@

$(OUT)/_counting$(EXT): $(COUNTING_OBJECTS) $(BUILD)/counting/module.o $(SHARED_OBJECTS)
	@mkdir -p $(OUT); echo "$(STEP) link  $@"; $(CXX) -shared $(filter %.o,$^) -o $@

# cconvnet/devices/modules.py loads the oneDNN of the Python environment before the module. Any other is found by the
# path in the module.
$(OUT)/_cpu$(EXT): $(BUILD)/cpu/module.o $(CPU_OBJECTS) $(SHARED_OBJECTS)
	@mkdir -p $(OUT); echo "$(STEP) link  $@"; $(CXX) -shared -fopenmp $^ $(ONEDNN_LIBRARIES) -o $@

$(OUT)/_cuda$(EXT): $(BUILD)/cuda/module.o $(CUDA_OBJECTS) $(SHARED_OBJECTS)
	@mkdir -p $(OUT); echo "$(STEP) link  $@"; $(NVCC) -shared -cudart static $^ -o $@

-include $(wildcard $(BUILD)/*/*.d $(BUILD)/*/*/*.d)

endif
