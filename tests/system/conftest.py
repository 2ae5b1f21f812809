import os
import sys
import tempfile

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ladder as ladder_module  # noqa: E402


@pytest.fixture
def ladder():
    # Not pytest's tmp_path: a Unix socket's path may hold 107 bytes only.
    with tempfile.TemporaryDirectory(prefix="rung-") as directory, ladder_module.Ladder(directory) as ladder:
        yield ladder
