"""Documents that can be checked are."""

import re
from pathlib import Path

from tests.contracts.test_messages import all_messages

ROOT = Path(__file__).resolve().parents[2]


def test_the_message_table_of_the_architecture_is_complete() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    table = text.split("<!-- messages:begin")[1].split("<!-- messages:end")[0]
    assert set(re.findall(r"^\| ([a-z]+\.[A-Z]\w+) \|", table, re.MULTILINE)) == set(all_messages())
