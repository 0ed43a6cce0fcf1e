"""Examples that ollama-python publishes, each run as it is. The names they use are copies of SmolLM2."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import ollama
import pytest

from tests.e2e.contract import MODEL
from tests.fixtures.suite import Suite

pytestmark = [pytest.mark.e2e, pytest.mark.real_model]

EXAMPLES = sorted((Path(__file__).parent / "examples" / "python").glob("*.py"))
SECONDS = 150.0
SEEDED = "import random, runpy, sys; random.seed(1); runpy.run_path(sys.argv[1], run_name='__main__')"
"""Some draw what they ask for; each run asks the same."""

ALIASES = {
    "short": ("gemma4", "llama3.2"),
    "longer": ("llama3.1:8b",),
    "capable": ("codellama:7b-code", "gpt-oss:20b", "llama3.1", "qwen3"),
    "thinker": ("deepseek-r1",),
}
SHORT = {"num_predict": 50, "temperature": 0, "repeat_penalty": 1.1}
LONGER = {**SHORT, "num_predict": 150}
"""Long enough for a whole object. Without the penalty, a list that SmolLM2 begins has no end."""

CAPABLE_TEMPLATE = """\
{{- if .Suffix }}{{ .Prompt }} <fill> {{ .Suffix }}
{{- else }}
{{- if .Tools }}<|im_start|>system
Tools: {{ .Tools }}
To use one, answer <tool_call>{"name": "...", "arguments": {}}</tool_call>.<|im_end|>
{{ end }}
{{- range .Messages }}<|im_start|>{{ .Role }}
{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}
{{- if .ToolCalls }}{{ range .ToolCalls }}<tool_call>
{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}</tool_call>
{{- end }}{{ end }}<|im_end|>
{{ end }}<|im_start|>assistant
{{ end }}"""
THINKING_TEMPLATE = CAPABLE_TEMPLATE + "{{ if .Think }}<think>{{ end }}"
"""SmolLM2 never begins to think by itself."""

STDIN = {"chat-with-history": "Hello!\n"}
"""What is typed, for those that ask. They ask for ever, so at the end of it they end too."""


@pytest.fixture(scope="module")
async def aliases(suite: Suite) -> AsyncIterator[None]:
    """The names the examples use."""
    async with ollama.AsyncClient(suite.url) as client:
        before = {model.model for model in (await client.list()).models}
        await client.create("short", from_=MODEL, parameters=SHORT)
        await client.create("longer", from_=MODEL, parameters=LONGER)
        await client.create("capable", from_="short", template=CAPABLE_TEMPLATE)
        await client.create("thinker", from_="short", template=THINKING_TEMPLATE)
        for source, names in ALIASES.items():
            for name in names:
                await client.copy(source, name)
        yield
        for model in (await client.list()).models:
            if model.model is not None and model.model not in before:
                await client.delete(model.model)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
async def test_example(suite: Suite, aliases: None, example: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SEEDED, str(example)),
        env={"PATH": os.environ["PATH"], "OLLAMA_HOST": suite.url},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate(STDIN.get(example.stem, "").encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0 or "EOFError" in err.decode().splitlines()[-1], err.decode()
    assert out.strip(), "it printed nothing"
