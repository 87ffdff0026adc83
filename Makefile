# Thin over run.py, which works without make (and is what Windows users call).
# make chat ARGS="-p hello"      make test ARGS="tests/train/test_rows.py"
# make demo ARGS="-p 'Write a Python class named Clock.'"
# make bench ARGS="--verifier V.gguf --drafter D.gguf"
# make newest                     test with the newest llama-cpp-python and gguf there are
PYTHON ?= python3
ARGS ?=

.PHONY: chat demo test bench newest

chat:
	@$(PYTHON) run.py chat $(ARGS)

demo:
	@$(PYTHON) run.py demo $(ARGS)

test:
	@$(PYTHON) run.py test $(ARGS)

bench:
	@$(PYTHON) run.py bench $(ARGS)

newest:
	@$(PYTHON) run.py newest $(ARGS)
