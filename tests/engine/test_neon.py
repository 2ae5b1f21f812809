"""The NEON kernels, cross-built and run under qemu-user; skipped where the cross compiler or qemu is missing."""
import os
import subprocess

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def test_neon_kernels_give_the_bits_of_the_scalar_ones(tmp_path):
    build = os.environ.get("RUNG_CROSS_BUILD", str(tmp_path / "aarch64"))
    run = subprocess.run(["sh", os.path.join(ROOT, "tools", "cross_test.sh"), build], capture_output=True, text=True, timeout=900)
    if run.returncode == 77:
        pytest.skip(run.stderr.strip())
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert "100% tests passed" in run.stdout
