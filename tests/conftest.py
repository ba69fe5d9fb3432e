"""Settings of all tests."""

from hypothesis import HealthCheck, settings

# Drawing the first text loads tables of Unicode; on a loaded machine that alone may take more than the check allows.
settings.register_profile("tests", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("tests")
