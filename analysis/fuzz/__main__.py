"""``python -m analysis.fuzz``: many random calls, in processes of their own; a table by name, and every kind of defect.

Ends with 1 where a defect was found. ``--first K --calls 1`` makes call K again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

CHUNK = 500  # calls of one process, so that neither memory nor a crash goes far


def main() -> int:
    """Parse the arguments, run, print."""
    parser = argparse.ArgumentParser(prog="python -m analysis.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=2000, help="how many (default: 2000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first call (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="of all calls (default: 0)")
    parser.add_argument("--only", default="", help="names that start like this (default: all)")
    parser.add_argument("--log", type=Path, help="a file that gets every defect as a line of JSON")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return _work(options)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    defects: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    total = Counter[str]()
    log = options.log.open("a") if options.log else None
    for number, verdict in _verdicts(options):
        kind = verdict["kind"] if verdict["kind"] in ("answer", "refusal") else "defect"
        counts[verdict["name"]][kind] += 1
        total[kind] += 1
        if kind == "defect":
            defects[verdict["name"], verdict["kind"]].append((number, verdict["detail"]))
            if log:
                log.write(json.dumps({"number": number, **verdict}) + "\n")
                log.flush()
    _print(counts, defects, total)
    return 1 if defects else 0


def _work(options: argparse.Namespace) -> int:
    """Judge a chunk, saying before every call which one it is."""
    import torch

    from analysis.fuzz.judge import judged

    torch.set_num_threads(1)
    for number in range(options.first, options.first + options.calls):
        print(json.dumps({"number": number}), flush=True)
        print(json.dumps(judged(number, options.seed, options.only)._asdict()), flush=True)
    return 0


def _verdicts(options: argparse.Namespace) -> Iterator[tuple[int, dict[str, str]]]:
    """All verdicts; a call at which the interpreter ends is a defect, and the next goes on in a new one."""
    number, end = options.first, options.first + options.calls
    while number < end:
        size = min(CHUNK, end - number)
        command = [
            sys.executable,
            "-m",
            "analysis.fuzz",
            "--worker",
            "--only",
            options.only,
            "--seed",
            str(options.seed),
        ]
        command += ["--first", str(number), "--calls", str(size)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        assert running.stdout is not None
        last = None
        for line in running.stdout:
            try:
                found = json.loads(line)
            except json.JSONDecodeError:
                continue  # what a function of ours printed
            if "number" in found:
                last = found["number"]
            elif last is not None:
                yield last, found
                number, last = last + 1, None
        _, problem = running.communicate()
        if last is not None:
            detail = f"the interpreter ended with {running.returncode}: {problem[-300:]}"
            yield last, {"name": "?", "temper": "?", "kind": "crash", "detail": detail}
            number = last + 1
        elif running.returncode:
            raise SystemExit(f"the worker failed before call {number}:\n{problem}")


def _print(
    counts: dict[str, Counter[str]], defects: dict[tuple[str, str], list[tuple[int, str]]], total: Counter[str]
) -> None:
    print(f"{'name':<40}{'answers':>9}{'refusals':>10}{'defects':>9}")
    for name in sorted(counts):
        row = counts[name]
        print(f"{name:<40}{row['answer']:>9}{row['refusal']:>10}{row['defect']:>9}")
    print(f"{'all ' + str(len(counts)) + ' names':<40}{total['answer']:>9}{total['refusal']:>10}{total['defect']:>9}")
    for (name, kind), met in sorted(defects.items(), key=lambda item: -len(item[1])):
        print(f"\n{len(met)} x {name}: {kind}; the first is call {met[0][0]}\n  {met[0][1][:700]}")


if __name__ == "__main__":
    sys.exit(main())
