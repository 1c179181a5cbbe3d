"""What the report of a sequence says about its numbers."""

from pathlib import Path

import numpy as np
import pytest

from analysis.sequences.matrix import SuccessMatrix
from analysis.sequences.report import scores_table, tasks_table
from analysis.sequences.study import Arm, SequenceStudy
from analysis.statistics import interval


def study_of(evaluations_per_stage):
    """Two tasks; the last evaluation of all is the only one with success on both."""
    success = np.zeros((2 * evaluations_per_stage, 2))
    success[-1] = 1.0
    matrix = SuccessMatrix(
        ("a", "b"), success, np.arange(len(success)), evaluations_per_stage, 100, 5, "eval_quick"
    )
    scores = matrix.scores()
    arm = Arm(
        "plain",
        {0: Path("runs/seed_0")},
        (matrix,),
        interval([scores.performance]),
        interval([scores.mean_forgetting]),
        interval([scores.backward_transfer]),
    )
    return SequenceStudy((arm,), ("a", "b"), {})


@pytest.mark.parametrize(
    ("evaluations", "performance", "said"),
    [
        (10, "0.200", "at the end, the mean of the last 5 evaluations. Forgetting"),
        (4, "0.250", "the last 4 evaluations: all of its stage, first ones included. Forgetting"),
        (1, "1.00", "at the end, the mean of the last evaluation. Forgetting"),
    ],
)
def test_the_end_is_a_window_and_the_report_says_how_long(evaluations, performance, said):
    study = study_of(evaluations)
    table = scores_table(study)
    assert table.rows[0][2] == performance
    assert said in table.caption
    # The table of tasks shows the last evaluation, which may be far from that mean.
    assert [row[2].rpartition(", ")[2] for row in tasks_table(study).rows] == ["1.00", "1.00"]
    assert "single evaluations" in tasks_table(study).caption
