"""The figure of a run: what is averaged, that nothing is clipped, and that nothing leaks."""

import itertools
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from synthetic_runs import add_episodes, add_progress, long_run, make_run

from analysis.plots import STYLE, draw_run, return_bins, run_figure
from analysis.run_files import NotARun, read_episodes


def test_bins_hold_the_episodes_that_end_in_them(tmp_path):
    run = make_run(tmp_path / "run")
    early = [(10 * k, float(k), 10, 0, False) for k in range(1, 6)]  # the last ends at an edge
    late = [(60 + 8 * k, 10.0 * k, 10, 0, False) for k in range(1, 6)]
    add_episodes(run, *early, (55, 1e6, 5, 0, True), *late)
    bins = return_bins(read_episodes(run), 100)
    assert bins.centres.tolist() == [25.0, 75.0]
    assert bins.mean.tolist() == [3.0, 30.0]
    assert bins.low.tolist() == [2.0, 20.0]
    assert bins.high.tolist() == [4.0, 40.0]


def test_an_empty_bin_is_missing(tmp_path):
    run = make_run(tmp_path / "run")
    add_episodes(run, *((k, 1.0, 1, 0, False) for k in range(1, 11)))
    bins = return_bins(read_episodes(run), 100)
    np.testing.assert_array_equal(bins.mean, [1.0, np.nan])


def test_a_long_run_has_bins_of_one_per_cent(tmp_path):
    run = make_run(tmp_path / "run")
    add_episodes(run, *((k, 1.0, 1, 0, False) for k in range(1, 1001)))
    assert len(return_bins(read_episodes(run), 1000).mean) == 100


def test_png_and_svg_are_written_and_replaced(tmp_path):
    run = long_run(tmp_path / "run", 3)
    paths = draw_run(run)
    assert [path.relative_to(run).as_posix() for path in paths] == [
        "figures/run.png",
        "figures/run.svg",
    ]
    first = [path.read_bytes() for path in paths]
    assert first[0].startswith(b"\x89PNG")
    assert b"</svg>" in first[1]
    assert [path.read_bytes() for path in draw_run(run)] == first  # equal data, equal files
    assert sorted(entry.name for entry in (run / "figures").iterdir()) == ["run.png", "run.svg"]


def drawn(run):
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = run_figure(run)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return figure, canvas.get_renderer()


@pytest.mark.parametrize("num_regimes", [0, 1, 10, 50])
def test_no_text_is_clipped_and_no_legend_covers_data(tmp_path, num_regimes):
    run = tmp_path / "group" / "slippery_ant" / "ppo-mlp-continual_backprop-0a1b2c3d" / "seed_0"
    run = long_run(run, num_regimes) if num_regimes else make_run(run)
    figure, renderer = drawn(run)
    page = figure.bbox
    for panel in figure.axes:
        texts = [*panel.texts, panel.xaxis.label, panel.yaxis.label]
        legend = panel.get_legend()
        if legend is not None:
            assert not legend.get_window_extent(renderer).overlaps(panel.bbox)
            texts += legend.get_texts()
        for text in texts:
            box = text.get_window_extent(renderer)
            inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= page.x1 + 1
            assert not text.get_text() or (inside and box.y1 <= page.y1 + 1), text


def test_worlds_are_marked_and_their_frictions_do_not_touch(tmp_path):
    figure, renderer = drawn(long_run(tmp_path / "run", 10, first_values=(1.5,)))
    panel = figure.axes[0]
    places = [np.unique(np.asarray(line.get_xdata())).tolist() for line in panel.lines]
    marks = [place[0] for place in places if len(place) == 1]
    assert marks == [1000.0 * k for k in range(1, 10)]
    labels = [text for text in panel.texts if text.get_text() not in ("a", "friction")]
    assert len(labels) == 10
    assert labels[0].get_text() == "1.5"
    boxes = [label.get_window_extent(renderer) for label in labels]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_a_run_without_data_says_so(tmp_path):
    figure, _ = drawn(make_run(tmp_path / "run"))
    words = [[text.get_text() for text in panel.texts] for panel in figure.axes]
    assert "no full episode yet" in words[0]
    assert all("not measured yet" in panel for panel in words[1:])


def test_panels_show_the_units_they_name(tmp_path):
    run = make_run(tmp_path / "run", hidden_sizes=(10, 20))
    row = {
        "window/policy/all/dormant_fraction": 0.25,
        "window/policy/layers.1/stable_rank": 5,
        "window/policy/layers.0/stable_rank": 9,
        "weights/policy/layers.0/weight_magnitude": 0.1,
        "weights/value/layers.0/weight_magnitude": 0.00125,
    }
    add_progress(run, [{"env_steps": step, **row} for step in (10, 20)])
    figure, _ = drawn(run)
    data = [
        [np.asarray(line.get_ydata()).tolist() for line in panel.lines] for panel in figure.axes
    ]
    assert data[1] == [[25.0, 25.0]]
    assert data[2] == [[25.0, 25.0]]  # 5 of the last layer's 20 units
    assert data[3] == [[0.1, 0.1], [0.00125, 0.00125]]
    assert figure.axes[3].get_yscale() == "log"
    assert figure.axes[1].get_yscale() == "linear"


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(NotARun, match="not a run directory"):
        draw_run(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_drawing_leaves_matplotlib_as_it_was(tmp_path):
    run = long_run(tmp_path / "run", 2)
    code = (
        "import sys, matplotlib\n"
        "plain = lambda: {k: v for k, v in matplotlib.rcParams.items() if k != 'backend'}\n"
        "matplotlib.use('agg')\n"  # otherwise asking for the backend imports pyplot
        "before = plain()\n"
        "from analysis.plots import draw_run\n"
        f"draw_run({str(run)!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert plain() == before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
