"""Only plugs the fixtures in."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.fixtures.infra", "tests.fixtures.database", "tests.fixtures.node"]

# The clock of a busy machine fails no test, and each run tries the same examples; --hypothesis-profile=default
# tries others.
settings.register_profile(
    "suite", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")
