"""The honest run that hostile files are made from."""

import pytest
from helpers.hostile import Ground, make_ground


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return make_ground(tmp_path_factory.mktemp("ground"))
