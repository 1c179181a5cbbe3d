"""What came out of a run: final and lifetime return, and one line per world.

Runs that learn from right answers have no returns; their lines show the share of right answers
(classes) or the loss (numbers) that was logged while learning.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from analysis import continual
from analysis.continual.episodes import PHASE_SHARE, Episodes
from analysis.run_columns import Columns
from analysis.run_files import Regime, read_episodes, read_progress, read_regimes

MAX_ROWS = 8
"""Worlds in a table; of more, the middle ones are left out."""


def final_return(run_dir: Path | str) -> float:
    """Mean return over episodes that ended in the last 12.5 % of the last regime.

    Episodes that a switch cut short do not count. NaN if no episode ended there.
    """
    last = read_regimes(Path(run_dir))[-1]
    return end_of_phase_return(read_episodes(Path(run_dir)), last)


def lifetime_average(run_dir: Path | str) -> float:
    """Mean over environment steps of the return of the episode they belong to.

    Episodes that a switch cut short enter with their own length. NaN if no episode has ended.
    """
    episodes = read_episodes(Path(run_dir))
    return continual.lifetime_average(episodes.returns, episodes.lengths)


def end_of_phase_return(episodes: Episodes, regime: Regime) -> float:
    """Mean return of the full episodes that ended in the last 12.5 % of one regime, or NaN.

    Deviation: `analysis.continual.end_of_phase`, which comparisons use, weighs episodes by their
    steps inside the window; here each counts once, as in the learning curve.
    """
    full = episodes.complete(regime.index)
    begin = regime.end - PHASE_SHARE * (regime.end - regime.start)
    returns = full.returns[full.end_steps > begin]
    return float(returns.mean()) if len(returns) else math.nan


def outcome(run_dir: Path | str) -> str:
    """The last result in words: `final return 3120.4`, or `last accuracy 0.881`."""
    path = Path(run_dir)
    progress, last = read_progress(path), read_regimes(path)[-1]
    answers = _answers(progress)
    if answers is None:
        return f"final return {final_return(path):.1f}"
    return f"last {answers} {_text(_logged(progress, answers, last)[1], '.4g')}"


def _answers(progress: Mapping[str, np.ndarray]) -> str | None:
    """Column of a run that learns from right answers; None where rewards are learnt from."""
    earned = progress.get("episode_return", np.zeros(0))
    for name in ("accuracy", "loss"):
        if name in progress and not np.isfinite(earned).any():
            return name
    return None


def _logged(progress: Mapping[str, np.ndarray], name: str, regime: Regime) -> list[float]:
    """Mean and last value of the rows logged in a regime, NaN where there are none."""
    inside = (progress["env_steps"] > regime.start) & (progress["env_steps"] <= regime.end)
    values = progress[name][inside]
    values = values[np.isfinite(values)]
    return [float(values.mean()), float(values[-1])] if len(values) else [math.nan, math.nan]


def summary_table(run_dir: Path | str) -> str:
    """One line per regime as plain text of at most 12 lines and 100 columns.

    Diagnostics are the last ones measured in a regime, on the on-policy window, of the first
    network (the policy). A dash stands for what was not measured.
    """
    path = Path(run_dir)
    regimes, episodes, progress = read_regimes(path), read_episodes(path), read_progress(path)
    columns = Columns.of(path, progress)
    network = columns.networks[0] if columns.networks else None
    table = Table(box=None, pad_edge=False, header_style="", padding=(0, 2, 0, 0))
    rank = "stable rank" + (" %" if columns.num_units else "")
    answers = _answers(progress)
    returns = ["mean return", "end return"]
    if answers is not None:
        returns = [f"mean {answers}", f"last {answers}"]
    titles = ["regime", columns.regime_label, "steps", *returns, "dormant %", rank, "mean |w|"]
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for regime in _shown(regimes):
        if regime is None:
            table.add_row(*["..."] * len(titles))
            continue
        row = [str(regime.index), regime.label, f"{regime.end - regime.start:,}"]
        if answers is None:
            inside = episodes.select(episodes.regimes == regime.index)
            row += [_text(continual.lifetime_average(inside.returns, inside.lengths), ".1f")]
            row += [_text(end_of_phase_return(episodes, regime), ".1f")]
        else:
            row += [_text(value, ".4g") for value in _logged(progress, answers, regime)]
        row += _diagnostics(progress, columns, network, regime)
        table.add_row(*row)
    stream = io.StringIO()
    Console(file=stream, width=100, force_terminal=False, color_system=None).print(table)
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    if answers is None:
        average = _text(lifetime_average(path), ".1f")
        final = _text(end_of_phase_return(episodes, regimes[-1]), ".1f")
        lines.append(f"lifetime average return {average}, final return {final}")
    return "\n".join(lines)


def _shown(regimes: tuple[Regime, ...]) -> list[Regime | None]:
    if len(regimes) <= MAX_ROWS:
        return list(regimes)
    half = MAX_ROWS // 2
    return [*regimes[:half], None, *regimes[-half:]]


def _diagnostics(
    progress: Mapping[str, np.ndarray], columns: Columns, network: str | None, regime: Regime
) -> list[str]:
    if network is None:
        return ["-"] * 3
    names = (
        (columns.dormant("window", network), 100.0, ".1f"),
        (columns.stable_rank("window", network), columns.rank_scale, ".1f"),
        (columns.all_weights(network), 1.0, ".4f"),
    )
    inside = (progress["env_steps"] > regime.start) & (progress["env_steps"] <= regime.end)
    cells = []
    for name, factor, style in names:
        values = progress[name][inside] if name in progress else np.zeros(0)
        values = values[np.isfinite(values)]
        cells.append(_text(factor * float(values[-1]) if len(values) else math.nan, style))
    return cells


def _text(value: float, style: str) -> str:
    return "-" if math.isnan(value) else format(value, style)
