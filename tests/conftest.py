"""Only plugs the fixtures in."""

pytest_plugins = ["tests.fixtures.infra", "tests.fixtures.database", "tests.fixtures.node"]
