"""``make demo-failover``: a worker is killed in the middle of an answer, and the answer goes on."""

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx

from deploy.local import answer
from deploy.local.config import Config
from deploy.local.errors import SetupError
from deploy.local.services import SEED_MODEL
from deploy.local.supervisor import Supervisor

QUESTION = "Tell me a long story about a lighthouse keeper and the sea."

KILL_AFTER_PIECES = 25

RUNNING = "worker_requests_running"


def show_failover(config: Config, worker_urls: dict[str, str]) -> None:
    """``worker_urls``: the base URL of each worker's metrics, by program. Raises ``SetupError``."""
    print(f"\n{SEED_MODEL}, {QUESTION}\n> ", end="", flush=True)
    supervisor = Supervisor(config.run_dir)
    try:
        with httpx.Client(base_url=answer.base_url(config), timeout=answer.ANSWER_SECONDS, trust_env=False) as http:
            _stream(http, answer.credentials(http, config), supervisor, worker_urls)
    except httpx.HTTPError as error:
        raise SetupError(f"the gateway did not answer ({error!r}): see `make logs s=gateway`") from error


def _stream(http: httpx.Client, headers: dict[str, str], supervisor: Supervisor, worker_urls: dict[str, str]) -> None:
    last: dict[str, Any] = {}
    for number, part in enumerate(_parts(http, headers)):
        if number == KILL_AFTER_PIECES:
            name = _busy_worker(worker_urls)
            pid = supervisor.process(name)["pid"]
            os.kill(pid, signal.SIGKILL)
            print(f"\n\n--- kill -9 {pid} ({name}, which was generating this answer) ---\n\n", end="", flush=True)
        print(part["message"]["content"], end="", flush=True)
        last = part
    print(f"\n\n--- the client saw one stream, {last['eval_count']} tokens, done_reason {last['done_reason']} ---")


def _parts(http: httpx.Client, headers: dict[str, str]) -> Iterator[dict[str, Any]]:
    body = {
        "model": SEED_MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "options": {"num_predict": 200, "seed": 7, "temperature": 0.7},
    }
    with http.stream("POST", "/api/chat", json=body, headers=headers) as response:
        for line in response.iter_lines():
            part = json.loads(line)
            if "error" in part:
                raise SetupError(f"the answer broke off ({part['error']}): see `make logs`")
            yield part


def _busy_worker(worker_urls: dict[str, str]) -> str:
    for name, url in worker_urls.items():
        metrics = httpx.get(f"{url}/metrics", timeout=5, trust_env=False).text.splitlines()
        if any(line.startswith(f"{RUNNING} ") and float(line.split()[1]) > 0 for line in metrics):
            return name
    raise SetupError("no worker is generating: the answer ended too early for the demonstration; try again")
