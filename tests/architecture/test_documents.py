"""Documents that can be checked are."""

import re
from pathlib import Path

from tests.contracts.test_messages import all_messages

ROOT = Path(__file__).resolve().parents[2]


def test_the_message_table_of_the_architecture_is_complete() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    table = text.split("<!-- messages:begin")[1].split("<!-- messages:end")[0]
    assert set(re.findall(r"^\| ([a-z]+\.[A-Z]\w+) \|", table, re.MULTILINE)) == set(all_messages())


def test_what_programs_measure_has_a_place_in_the_document() -> None:
    sources = [path.read_text() for part in ("load", "chaos") for path in (ROOT / "tests" / part).glob("*.py")]
    written = {name for source in sources for name in re.findall(r'report\.write\(.*, "(\w+)"\)', source)}
    document = (ROOT / "docs" / "performance.md").read_text()
    assert set(re.findall(r"^<!-- (\w+): begin -->$", document, re.MULTILINE)) == written | {"bench"}
