"""What every test may ask for: fixtures are defined beside what they are about, and named here."""

pytest_plugins = ["tests.support.postgres", "tests.support.broker"]
