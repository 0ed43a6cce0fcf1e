"""ollama-js under Node: the tests themselves are JavaScript, in ``clients/``."""

from pathlib import Path

import pytest

from tests.fixtures.node import run_node
from tests.fixtures.suite import Suite

SCRIPT = Path(__file__).parent / "clients" / "ollama.test.mjs"


@pytest.mark.e2e
@pytest.mark.real_model
def test_ollama_js(suite: Suite, node_modules: Path) -> None:
    report = run_node(node_modules, SCRIPT, "--test", OLLAMA_HOST=suite.url)
    assert "# pass 13" in report, report
