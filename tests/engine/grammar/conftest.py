"""One tiny engine for all tests of grammars."""

from collections.abc import Iterator

import pytest
from constrained import ConstrainedEngine


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConstrainedEngine]:
    made = ConstrainedEngine(tmp_path_factory.mktemp("constrained"))
    yield made
    made.compiler.close()
