"""``pytest --plugin FILE``: mechanisms from a file, as every attnbench command takes them.

Installed as a pytest plug-in, since an option of a conftest is not known when pytest looks for the
conftest, and its value would be taken for a test file.
"""

import pytest

from attnbench import registry


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE",
        help="attnbench: file that registers mechanisms",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Load the files before tests are parametrised over the registry."""
    for path in config.getoption("--plugin"):
        registry.add_plugin(path)
