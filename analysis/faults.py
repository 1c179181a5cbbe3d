"""The fault report: `python -m analysis.faults [--docs FILE]` runs every test that injects a fault.

It prints a table fault x outcome and, on request, writes it into a page between two markers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import analysis
from analysis.fault_catalogue import FAULTS, Fault
from analysis.storage import atomic_write_text
from configs.exit_codes import EXIT_CONFIGURATION, EXIT_DONE, EXIT_FAILED

ROOT = Path(analysis.__file__).resolve().parent.parent
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


@dataclass(frozen=True)
class Case:
    """One executed test case.

    Attributes:
        test: Id of its function, without parameters.
        status: passed, failed or skipped.
        notes: What it measured.
    """

    test: str
    status: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What the tests of one fault said."""

    fault: Fault
    cases: tuple[Case, ...]

    @property
    def missing(self) -> list[str]:
        """Tests of the catalogue that did not run."""
        ran = {case.test for case in self.cases}
        return [test for test in self.fault.tests if test not in ran]

    @property
    def holds(self) -> bool:
        """Whether every test ran and none failed; a skipped one shows nothing."""
        passed = {case.test for case in self.cases if case.status == "passed"}
        failed = any(case.status == "failed" for case in self.cases)
        return not failed and passed >= set(self.fault.tests)

    @property
    def words(self) -> str:
        """`5 of 5 pass`, with what is missing."""
        passed = sum(case.status == "passed" for case in self.cases)
        text = f"{passed} of {len(self.cases)} pass"
        if self.missing:
            text += f", {len(self.missing)} did not run"
        notes = [note for case in self.cases for note in case.notes]
        return "; ".join([text, *notes])


def read_cases(report: Path) -> list[Case]:
    """Test cases of a JUnit report.

    Raises:
        ValueError: The file is no such report.
    """
    try:
        tree = ElementTree.parse(report)
    except (OSError, ElementTree.ParseError) as error:
        raise ValueError(f"{report} is no report of a test run: {error}") from error
    cases = []
    for node in tree.iter("testcase"):
        names = {child.tag for child in node}
        status = "passed"
        if names & {"failure", "error"}:
            status = "failed"
        elif "skipped" in names:
            status = "skipped"
        notes = tuple(entry.get("value", "") for entry in node.iter("property"))
        function = node.get("name", "").partition("[")[0]
        cases.append(Case(_test_id(node.get("classname", ""), function), status, notes))
    return cases


def _test_id(classname: str, function: str) -> str:
    """`tests.faults.test_x.TestY`, `test_z` -> `tests/faults/test_x.py::TestY::test_z`."""
    parts = classname.split(".")
    # Modules are called test_..., classes Test...
    end = next((i for i, part in enumerate(parts) if part.startswith("test_")), len(parts) - 1)
    path = "/".join(parts[: end + 1]) + ".py"
    return "::".join([path, *parts[end + 1 :], function])


def outcomes(cases: Sequence[Case], faults: Sequence[Fault] = FAULTS) -> list[Outcome]:
    """What was found, fault by fault."""
    return [
        Outcome(fault, tuple(case for case in cases if case.test in fault.tests))
        for fault in faults
    ]


def table(found: Sequence[Outcome]) -> str:
    """The Markdown table."""
    lines = ["| | fault | what happens | tests |", "|---|---|---|---|"]
    for one in found:
        mark = one.words if one.holds else f"**{one.words}**"
        lines.append(f"| {one.fault.name} | {one.fault.fault} | {one.fault.expected} | {mark} |")
    return "\n".join(lines)


def insert(page: str, text: str) -> str:
    """Put a text between the markers of a page.

    Raises:
        ValueError: The page lacks the markers.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no lines {BEGIN} and {END} to write between")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def run_tests(report: Path, processes: int) -> Mapping[str, float]:
    """Run every test of the catalogue; what it took in seconds."""
    tests = sorted({test for fault in FAULTS for test in fault.tests})
    start = time.monotonic()
    # Long tests differ by minutes: who is done takes over what waits for the other process.
    parallel = ["-n", str(processes), "--dist=worksteal"] if processes > 1 else []
    shown = ["-q", "--durations=15", "--durations-min=5"]
    subprocess.run(
        [sys.executable, "-m", "pytest", *shown, *parallel, f"--junitxml={report}", *tests],
        cwd=ROOT,
        check=False,  # a failed test is a result
    )
    return {"seconds": time.monotonic() - start}


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m analysis.faults", description=__doc__)
    parser.add_argument("--docs", type=Path, help="page to write the table into")
    parser.add_argument("--report", type=Path, help="JUnit report of an earlier run to read")
    parser.add_argument("--processes", type=int, default=2, help="test processes")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        report = options.report or Path(folder) / "report.xml"
        if options.report is None:
            took = run_tests(report.resolve(), options.processes)
            print(f"{took['seconds'] / 60:.1f} minutes on {options.processes} processes")
        try:
            found = outcomes(read_cases(report))
            text = table(found)
            if options.docs is not None:
                page = options.docs.read_text(encoding="utf-8")
                atomic_write_text(options.docs, insert(page, text))
        except (OSError, ValueError) as error:
            print(f"faults: {error}", file=sys.stderr)
            return EXIT_CONFIGURATION
    print(text)
    bad = [one.fault.name for one in found if not one.holds]
    print(
        f"{len(found) - len(bad)} of {len(found)} hold"
        + (f"; not: {', '.join(bad)}" if bad else "")
    )
    return EXIT_FAILED if bad else EXIT_DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
