"""What a user installs: the package gapbound alone, and scripts that find their checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LARGEST = 2e6  # bytes


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    for name in map(bytes.decode, filter(None, files)):
        if name.startswith(("gapbound/", "analysis/", "empirical/")) or "/" not in name:
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    subprocess.run([*command, "-w", out, source], check=True, capture_output=True)
    (found,) = out.glob("*.whl")
    return found


def test_the_wheel_holds_gapbound_alone_and_is_small(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"gapbound"}
    assert {"gapbound/py.typed", "gapbound/bounds/best.py", "gapbound/updates/policy.py"} <= set(names)
    assert wheel.stat().st_size < LARGEST


def test_a_training_script_finds_its_checkout_by_itself(tmp_path):
    """As a script starts: its own folder first on the path, and nothing that names the checkout behind it."""
    script = ROOT / "empirical" / "train_mixgrpo.py"
    code = (
        f"import runpy, sys; elsewhere = [p for p in sys.path if p not in ('', {str(ROOT)!r})]; "
        f"sys.path[:] = [{str(script.parent)!r}, *elsewhere]; runpy.run_path({str(script)!r}, run_name='script')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PATH": "/usr/bin"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
