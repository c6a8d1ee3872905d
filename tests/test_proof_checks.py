"""The symbolic checks that paper/ points to: exactly 0 as stated, not 0 once a claimed constant is changed."""

import re
from pathlib import Path

import pytest
import sympy as sp

from analysis.proofs import CHECKS
from analysis.proofs.__main__ import main

ROOT = Path(__file__).parent.parent
PAPER = ROOT / "paper"
NAME = re.compile(r"\\code\{([^}]*)\}")


@pytest.mark.parametrize("name", CHECKS)
def test_every_residual_is_exactly_0(name):
    residuals = CHECKS[name]()
    assert residuals
    assert all(residual == 0 for residual in residuals)


@pytest.mark.parametrize("name", CHECKS)
def test_a_claimed_constant_that_is_changed_by_a_hundredth_leaves_a_residual(name):
    numbers = [float_at_a_point(residual) for residual in CHECKS[name](slip=sp.Rational(99, 100))]
    assert max(numbers) > 1e-6


def float_at_a_point(residual):
    """Size of a residual with odd values for its symbols, and for its undetermined functions and their derivatives."""
    residual = sp.sympify(residual).doit()
    unknown = sorted(residual.atoms(sp.Subs, sp.Derivative), key=lambda atom: (-atom.count_ops(), str(atom)))
    unknown += sorted(residual.atoms(sp.core.function.AppliedUndef), key=str)
    residual = residual.subs([(atom, sp.Rational(7 + 2 * i, 5)) for i, atom in enumerate(unknown)])
    symbols = sorted(residual.free_symbols, key=str)
    residual = residual.subs({symbol: sp.Rational(3 + i, 7) for i, symbol in enumerate(symbols)})
    return abs(complex(residual.evalf()))


def theorems():
    return {path.name: path.read_text() for path in sorted((PAPER / "theorems").glob("*.tex"))}


def exists(entry):
    """Whether ``module`` or ``module::function`` is in the repository."""
    module, _, function = entry.partition("::")
    path = ROOT / module.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not source.exists():
        return False
    return not function or re.search(rf"^(def|class) {function}\b", source.read_text(), re.M) is not None


STATEMENT = re.compile(r"\\begin\{(theorem|lemma|proposition|corollary|example|checked)\}(.*?)\\end\{\1\}", re.S)


def unchecked(text):
    """Statements, by label or their first words, that no ``checked`` environment follows before the next statement."""
    found = [(kind, body) for kind, body in STATEMENT.findall(text)]
    following = [*found[1:], ("end", "")]
    return [
        (re.search(r"\\label\{([^}]*)\}", body) or re.search(r"(.{0,40})", body))[1]
        for (kind, body), (after, names) in zip(found, following, strict=True)
        if kind != "checked" and not (after == "checked" and NAME.search(names))
    ]


def test_every_statement_says_what_checks_it():
    statements = sum(
        len(re.findall(r"\\begin\{(?:theorem|lemma|proposition|corollary|example)\}", t)) for t in theorems().values()
    )
    assert statements >= 50
    assert {name: unchecked(text) for name, text in theorems().items() if unchecked(text)} == {}


def test_every_check_of_a_statement_can_fail():
    """Each list of checks holds a test, a symbolic check or a claim; functions of the library alone check nothing."""
    kinds = re.compile(r"tests\.|analysis\.(proofs|ledger)\.")
    for name, text in theorems().items():
        for kind, body in STATEMENT.findall(text):
            assert kind != "checked" or any(kinds.match(entry) for entry in NAME.findall(body)), (name, body)


def test_a_statement_without_checks_is_noticed():
    lemma = r"\begin{lemma}\label{lem:a} So. \end{lemma} \begin{proof} Thus. \end{proof}"
    checks = r"\begin{checked} \code{tests.test_law::test_windows_compose}. \end{checked}"
    assert unchecked(lemma + checks) == []
    assert unchecked(lemma + lemma + checks) == ["lem:a"]
    assert unchecked(lemma + checks + lemma) == ["lem:a"]
    assert unchecked(lemma + r"\begin{checked} by reading. \end{checked}") == ["lem:a"]


def test_whatever_the_paper_names_exists_and_every_check_is_named():
    named = {entry for text in theorems().values() for entry in NAME.findall(text)}
    assert [entry for entry in named if not exists(entry)] == []
    assert {f"{function.__module__}::{name}" for name, function in CHECKS.items()} - named == set()


def test_a_name_that_is_not_there_is_noticed():
    assert exists("analysis.proofs.fields::duhamel_identity")
    assert exists("analysis.proofs")
    assert not exists("analysis.proofs.fields::duhamel_identit")
    assert not exists("analysis.no_such_module::duhamel_identity")


def test_every_theorem_file_is_read_by_the_paper():
    main_file = (PAPER / "main.tex").read_text()
    assert [name for name in theorems() if f"theorems/{name.removesuffix('.tex')}}}" not in main_file] == []


def test_the_module_prints_its_tally(capsys, monkeypatch):
    few = dict(list(CHECKS.items())[:6]) | {"wrong": lambda: (sp.Integer(1),)}
    monkeypatch.setattr("analysis.proofs.__main__.CHECKS", few)
    main()
    last = capsys.readouterr().out.splitlines()[-1]
    checks, exact, residuals = (int(number) for number in re.findall(r"\d+", last)[:3])
    assert checks == len(few)
    assert exact == residuals - 1 >= 6
