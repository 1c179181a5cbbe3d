"""The catalogue names tests that exist, and the report hides nothing."""

import ast

import pytest
from fault_tools import REPOSITORY

from analysis import faults
from analysis.fault_catalogue import FAULTS, Fault

REPORT = """<testsuites><testsuite>
<testcase classname="tests.a.test_x" name="test_one[1]"><properties>
<property name="n" value="0.1 %"/></properties></testcase>
<testcase classname="tests.a.test_x" name="test_one[2]">{inner}</testcase>
<testcase classname="tests.a.test_x.TestY" name="test_two"/>
</testsuite></testsuites>"""
ONE = Fault("F1", "kill", "goes on", ("tests/a/test_x.py::test_one",))
TWO = Fault("F2", "flip", "noticed", ("tests/a/test_x.py::TestY::test_two",))


def functions(path):
    tree = ast.parse((REPOSITORY / path).read_text())
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from (f"{path}::{node.name}::{f.name}" for f in node.body if hasattr(f, "name"))
        elif isinstance(node, ast.FunctionDef):
            yield f"{path}::{node.name}"


def test_every_test_of_the_catalogue_exists():
    for fault in FAULTS:
        assert fault.tests, fault.name
        for test in fault.tests:
            assert test in set(functions(test.partition("::")[0])), test


def test_every_numbered_fault_is_in_the_catalogue():
    names = {name for fault in FAULTS for name in fault.name.split(", ")}
    assert {f"F{number}" for number in range(1, 36)} <= names


def test_every_fault_test_belongs_to_a_fault():
    known = {test for fault in FAULTS for test in fault.tests}
    for path in sorted((REPOSITORY / "tests/faults").glob("test_fault_*.py")):
        if path.name == "test_fault_report.py":
            continue
        found = {name for name in functions(f"tests/faults/{path.name}") if "::test_" in name}
        assert found <= known, found - known


@pytest.mark.parametrize(
    ("inner", "words", "holds"),
    [
        ("", "2 of 2 pass; 0.1 %", True),
        ("<failure/>", "1 of 2 pass; 0.1 %", False),
        ("<error/>", "1 of 2 pass; 0.1 %", False),
        ("<skipped/>", "1 of 2 pass; 0.1 %", True),
    ],
)
def test_outcomes_are_counted(inner, words, holds, tmp_path):
    (tmp_path / "r.xml").write_text(REPORT.format(inner=inner))
    cases = faults.read_cases(tmp_path / "r.xml")
    one, two = faults.outcomes(cases, [ONE, TWO])
    assert (one.words, one.holds) == (words, holds)
    assert (two.words, two.holds) == ("1 of 1 pass", True)


def test_a_test_that_did_not_run_or_was_only_skipped_is_no_success():
    (none,) = faults.outcomes([], [ONE])
    assert (none.words, none.holds) == ("0 of 0 pass, 1 did not run", False)
    skipped = faults.Case(ONE.tests[0], "skipped")
    assert not faults.outcomes([skipped], [ONE])[0].holds


def test_the_table_is_written_between_its_markers(tmp_path, capsys):
    (tmp_path / "r.xml").write_text(REPORT.format(inner=""))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{faults.BEGIN}\nSTALE\n{faults.END}\nafter\n")
    code = faults.main(["--report", str(tmp_path / "r.xml"), "--docs", str(page)])
    assert code == faults.EXIT_FAILED  # of the real catalogue nothing ran
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "STALE" not in text
    assert "| F35 |" in text
    assert "not: F1" in capsys.readouterr().out
    page.write_text("no markers")
    assert faults.main(["--report", str(tmp_path / "r.xml"), "--docs", str(page)]) == 2
    assert faults.main(["--report", str(page)]) == 2
    assert page.read_text() == "no markers"
