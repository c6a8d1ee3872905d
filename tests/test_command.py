"""Commands start quickly and end with a message: closed pipes, Ctrl-C, full disks, folders in the place of files."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from analysis import command

ROOT = Path(__file__).parents[1]
PIPELINES = ("diffusers", "transformers", "peft", "accelerate", "matplotlib")
HEAVY = ("torch", "sympy", "matplotlib", "diffusers", "scipy.stats")


def python(code):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # a shell's background jobs, such as a whole run of the tests, ignore SIGINT, and so would their children
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


LONG = """
    from analysis import command

    def main() -> None:
        for k in range(100_000):
            print("line", k)

    command.run(main, "long")
"""


def test_a_reader_that_leaves_ends_a_command_in_silence():
    with python(LONG) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == command.BROKEN_PIPE


def test_an_interrupt_is_one_line():
    waiting = LONG.replace('print("line", k)', 'print("line", k, flush=True); __import__("time").sleep(60)')
    with python(waiting) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "interrupted\n"
    assert process.returncode == command.INTERRUPTED


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_named():
    code = LONG.replace('print("line", k)', '__import__("pathlib").Path("/dev/full").write_text("text")')
    with python(code) as process:
        _, errors = process.communicate()
    assert (process.returncode, errors) == (1, "error: No space left on device\n")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(LONG)], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")


def test_a_folder_in_the_place_of_a_figure_is_named(tmp_path):
    (tmp_path / "window.png").mkdir()
    code = f"""
        from pathlib import Path
        from analysis import command
        from analysis.files import write_text
        command.run(lambda: write_text(Path({str(tmp_path / "window.png")!r}), "text"), "write")
    """
    with python(code) as process:
        _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.startswith("error: Is a directory: ")
    assert str(tmp_path / "window.png") in errors
    assert [path.name for path in tmp_path.iterdir()] == ["window.png"]  # nothing half-written is left


@pytest.mark.parametrize(
    "name", ["plot_rates", "plot_bounds", "plot_discretization", "plot_dynamics", "plot_optimum", "plot_window"]
)
def test_help_loads_nothing_heavy(name):
    code = f"""
        import runpy, sys
        sys.argv = ["{name}", "--help"]
        try:
            runpy.run_module("analysis.{name}", run_name="__main__")
        except SystemExit as end:
            print(end.code, [name for name in {HEAVY} if name in sys.modules])
    """
    with python(code) as process:
        out, errors = process.communicate()
    assert errors == ""
    assert out.splitlines()[-1] == "0 []"
    assert "--quick" in out


def test_importing_commands_changes_no_environment_variable():
    code = """
        import os
        before = dict(os.environ)
        import analysis.job, analysis.command, analysis.tightness, analysis.claims, analysis.plot_rates
        print(before == dict(os.environ))
    """
    with python(code) as process:
        out, errors = process.communicate()
    assert (out, errors) == ("True\n", "")


@pytest.mark.parametrize("path", ["measure_gap", "train_ddpo", "train_mixgrpo"])
def test_help_of_the_commands_on_images_loads_no_pipeline(path):
    code = f"""
        import runpy, sys
        sys.argv = ["{path}.py", "--help"]
        try:
            runpy.run_module("empirical.{path}", run_name="__main__")
        except SystemExit as end:
            print(end.code, [name for name in {PIPELINES} if name in sys.modules])
    """
    with python(code) as process:
        out, errors = process.communicate()
    assert errors == ""
    assert out.splitlines()[-1] == "0 []"
    assert "--model" in out
