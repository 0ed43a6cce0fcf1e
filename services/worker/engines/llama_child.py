"""The program of the process of one loaded model. It imports nothing of ours, so that it starts quickly.

It reads its configuration, one line of JSON, from stdin (not from arguments, which other users could see), serves
llama.cpp's HTTP API on loopback and prints ``{"address": "http://127.0.0.1:port"}`` when it is ready. It ends when
stdin does, so that it never outlives its worker, and on Linux the kernel kills it with the worker besides.
"""

import ctypes
import os
import resource
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import xllamacpp

PR_SET_PDEATHSIG: Final = 1

# Prompts of idle slots are kept in memory up to here, so that a conversation that comes back need not be read again.
PROMPT_CACHE_MIB: Final = 256

LARGEST_GROWTH_BYTES: Final = 2 << 30

NICENESS: Final = 5
"""A third of the share of a core that others get, as long as they want it."""


class ChildConfig(msgspec.Struct, frozen=True):
    """``context_length`` is tokens per slot; ``batch`` how many prompt tokens are read between two looks at cancels."""

    model_path: str
    context_length: int
    slots: int
    threads: int
    batch: int
    api_key: str
    embedding: bool
    pooling: Literal["model", "mean", "rank"] = "model"
    adapters: list[str] = []
    projector: str = ""


def server_params(config: ChildConfig) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = config.model_path
    params.n_ctx = config.context_length * config.slots
    params.n_parallel = config.slots
    params.n_batch = params.n_ubatch = config.batch
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = config.threads
    params.n_threads_http = config.slots + 4
    params.fit_params = False  # it would quietly shrink the context
    params.ctx_shift = True  # who wants no shift is given fewer tokens to generate
    params.use_jinja = True
    params.ui = False
    params.verbosity = 2  # warnings
    params.endpoint_slots = False
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.sse_ping_interval = 1  # a client that went away is noticed when something is written to it
    params.api_keys = [config.api_key]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.embedding = config.embedding
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in config.adapters]
    if config.projector:
        params.mmproj.path = config.projector
    if config.pooling == "rank":
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    if config.pooling == "mean":
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return params


def _die_with_the_worker() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _yield_to_services() -> None:
    """Its threads take every core there is. What passes its tokens on, and all else on the machine, goes first."""
    os.nice(NICENESS)
    with suppress(OSError):  # where sessions share the machine before processes do; ours is one of its own
        Path("/proc/self/autogroup").write_text(str(NICENESS))


def _bound_memory() -> None:
    """What a request may add to the loaded model: one that wants more ends this process, not the machine."""
    for line in Path("/proc/self/status").read_text().splitlines() if sys.platform == "linux" else ():
        if line.startswith("VmData:"):
            limit = int(line.split()[1]) * 1024 + LARGEST_GROWTH_BYTES
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _exit_at_end_of_input() -> None:
    sys.stdin.buffer.read()
    os._exit(0)  # there is nothing to save, and the server's threads would take their time


def main() -> None:
    _die_with_the_worker()
    _yield_to_services()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nobody reads what a library might print
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=ChildConfig)
    watch = threading.Thread(target=_exit_at_end_of_input, daemon=True)
    watch.start()
    params = server_params(config)  # the server does not copy it: it must live as long
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        os._exit(1)  # an ordinary exit would wait for the thread that reads
    _bound_memory()
    answers.write(msgspec.json.encode({"address": server.listening_address}) + b"\n")
    answers.flush()
    watch.join()


if __name__ == "__main__":
    main()
