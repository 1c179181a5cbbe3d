"""The report of a comparison as Markdown and as one self-contained HTML page."""

from __future__ import annotations

import base64
import html
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.compare.arm_scores import Scores
from analysis.compare.cells import Table
from analysis.compare.course import CoursePoint, course, course_csv, course_table
from analysis.compare.evaluations import OF_OTHER_STEPS
from analysis.compare.fairness import fairness_table
from analysis.compare.figures import draw_figures
from analysis.compare.flat_results import correlations_csv, gate_csv, results_csv
from analysis.compare.more_tables import (
    correlation_table,
    still_learning,
    tasks_csv,
    tasks_table,
)
from analysis.compare.oracle_table import ENOUGH_SEEDS
from analysis.compare.quick_evaluations import quick_warnings
from analysis.compare.scores import score
from analysis.compare.study import VERIFIED, Study, study_files
from analysis.compare.tables import (
    arms_table,
    continual_table,
    interval_text,
    network_table,
    score_table,
)
from analysis.compare.yardsticks import error_text, refused_tables, tables_of
from analysis.statistics import resampling

CAPTIONS = {
    "panels": "Return, dormant units, stable rank and weight magnitude of the policy: mean over "
    "runs with pointwise 95 % bands. Vertical lines are switches.",
    "regimes": "Return at the end of every phase (last 12.5 %), mean and 95 % interval.",
    "recovery": "Restricted mean recovery time (a run that never recovers counts as the whole "
    "regime), 95 % intervals, and the share of runs that never recovered.",
    "tasks": "Success by task and over all tasks, mean over seeds with 95 % intervals: whole seeds "
    "resampled, and for the last bars the runs of every task by themselves.",
    "learning": "Success of the quick evaluations, mean and pointwise 95 % band.",
    "profile": "Performance profile: share of runs and regimes with a mean return above τ.",
    "improvement": "Probability of improvement over the baseline, paired, with 95 % intervals.",
    "sequence_matrix": "Success on every task (columns) after every stage (rows), mean over seeds; "
    "a task is framed where it has just been trained.",
    "sequence_curves": "Success on every task over the whole run, mean over seeds.",
    "action_std": "Action standard deviation: exploration that is left.",
}
STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;"
    "color:#1a1a1a}table{border-collapse:collapse;font-size:13px;margin:.5rem 0}"
    "th,td{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}"
    "th{border-bottom:1px solid #888}img{max-width:100%}figure{margin:1.5rem 0}"
    "figcaption,.caption{color:#555;font-size:13px}pre{background:#f5f5f5;padding:.6rem;"
    "overflow-x:auto;font-size:13px}.table{overflow-x:auto}"
)


@dataclass(frozen=True)
class Text:
    """A paragraph, or with `items` a list."""

    text: str = ""
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class Heading:
    """A section title; level 1 is the title of the page."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Commands:
    """Lines to type."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """A figure by its name without suffix."""

    name: str


_RETENTION = (
    " The retention index in the table above says how much of its best return an arm keeps."
)
Block = Text | Heading | Commands | Picture | Table


def render(study: Study, name: str) -> dict[str, bytes]:
    """Make all files of a report: a pure function of the data and the name.

    Returns:
        Path below the report's folder -> contents.
    """
    with resampling(study.num_draws):
        scores = score(study)
        figures = draw_figures(study, scores)
        points = course(study)
    pictures = [n.removesuffix(".png") for n in figures if "png" in n]
    blocks = compose(study, scores, name, pictures, points)
    files = {f"data/{file}": data for file, data in study_files(study).items()}
    files |= {f"figures/{file}": data for file, data in figures.items()}
    files["results.csv"] = results_csv(study, scores)
    if scores.verdict is not None:
        files["gate.csv"] = gate_csv(scores.verdict)
    if scores.correlations:
        files["correlations.csv"] = correlations_csv(scores.correlations)
    if scores.tasks:
        files["tasks.csv"] = tasks_csv(study, scores)
    if points:
        files["course.csv"] = course_csv(points)
    files["report.md"] = to_markdown(blocks).encode()
    files["report.html"] = to_html(blocks, name, figures).encode()
    return files


def warnings(study: Study) -> list[str]:
    """What a reader must know before any number."""
    about, found = study.about, []
    fewest = min(len(runs) for runs in study.runs.values())
    if fewest < 5:
        found.append(
            f"exploratory: {fewest} seed{'' if fewest == 1 else 's'} per arm; below five seeds no "
            "test can reach p < .1, and 10 are needed for a claim"
        )
    elif fewest < 10:
        found.append(f"exploratory: {fewest} seeds per arm; 10 are needed for a claim")
    if about["partial"]:
        found.append(
            f"partial: runs are cut to the first {about['end']:,} of {about['total_steps']:,} "
            "steps and to the seeds that all arms have"
        )
    failed = [
        f"{arm} seed {seed} at step {run.env_steps:,}"
        for arm, runs in study.runs.items()
        for (_, seed), run in runs.items()
        if run.status == "failed"
    ]
    found += refused_tables(study)
    few = [name for name, table in tables_of(study).items() if len(table.seeds) < ENOUGH_SEEDS]
    if few:
        found.append(
            f"exploratory: fewer than {ENOUGH_SEEDS} seeds of the fresh networks of "
            f"{', '.join(few)}"
        )
    others = about.get(OF_OTHER_STEPS, {})
    if others:
        name, (steps, last) = next(iter(others.items()))
        found.append(
            f"the evaluations of {len(others)} runs are left out, because they are of another step "
            f"than the last: that of {name} is of step {steps:,} of {last:,}; measure the newest "
            "checkpoint with: python evaluate.py run RUN_DIR"
        )
    if lacking := [name for name in about.get("not_evaluated", ()) if name not in others]:
        found.append(
            f"{len(lacking)} runs such as {lacking[0]} have no evaluation of their tasks, so there "
            "is no table of tasks; make them with: python evaluate.py run RUN_DIR"
        )
    found += quick_warnings(study)
    if failed:
        found.append(f"failed runs count as results: {', '.join(failed)}")
    return found


def compose(
    study: Study,
    scores: Scores,
    name: str,
    pictures: Sequence[str],
    points: Sequence[CoursePoint] = (),
) -> list[Block]:
    """All parts of the report in order.

    Args:
        study: The comparison.
        scores: Of its arms.
        name: Title.
        pictures: Names of the figures.
        points: Course of training, no section without.
    """
    about = study.about
    blocks: list[Block] = [
        Heading(name, 1),
        Text(
            f"{len(study.arms)} arms on {about['env']}, {about['end']:,} environment steps per "
            f"run. Baseline: {study.baseline}."
        ),
    ]
    alerts = warnings(study)
    if learning := still_learning(scores.tasks):
        alerts.append(
            f"still learning: {', '.join(learning)} gained 2 points or more over the last fifth of "
            "training; compare areas under the curve, not ends"
        )
    if alerts:
        blocks.append(Text(items=tuple(f"Warning, {alert}." for alert in alerts)))
    blocks.append(score_table(study, scores))
    if scores.tasks:
        blocks.append(tasks_table(study, scores))
    blocks.append(continual_table(study, scores))
    blocks += [Heading("Loss of plasticity"), *_plasticity(study, scores)]
    blocks += [fairness_table(study, scores), network_table(study, scores)]
    if points:
        blocks.append(course_table(study, points))
    if scores.correlations:
        blocks.append(correlation_table(scores.correlations))
    blocks.append(Heading("Figures"))
    blocks += [Picture(picture) for picture in pictures]
    blocks.append(arms_table(study))
    if scores.notes:
        blocks += [Heading("Not computed"), Text(items=scores.notes)]
    return blocks + _origin(study)


def _plasticity(study: Study, scores: Scores) -> list[Block]:
    """The sentence of the validity gate, and what it rests on."""
    if study.about.get("may_change"):
        return [
            Text(
                "In the steps compared no run has reached a second world, so no loss of plasticity "
                "can be measured yet and the validity gate has not been run: methods are compared "
                "by their return alone. Compare again after the first switch, or where values "
                "drift, after the first interval or period."
            )
        ]
    if study.about["stationary"]:
        return [
            Text(
                "Nothing changes in this world, so no loss of plasticity can be measured here and "
                "the validity gate does not apply: methods are compared by their return alone."
                + (_RETENTION if any(arm.retention for arm in scores.arms) else "")
            )
        ]
    if scores.oracle is None:
        return [
            Text(
                "The plasticity index needs an oracle: fresh networks on the same worlds. Train "
                "the arm `fresh_oracle` on every seed of this group, or give a table of fresh "
                "networks (--oracle-table). Without it no loss of "
                "plasticity can be claimed: raw return also falls where a world is harder. The "
                "validity gate has not been run: differences above are of return alone."
            )
        ]
    verdict = scores.verdict
    if verdict is None:
        return [
            Text(
                "The validity gate could not be computed (see below), so no loss of plasticity can "
                "be claimed: differences above are of return alone."
            )
        ]
    lines = [
        f"slope of the baseline's plasticity index: {interval_text(verdict.slope)}",
        f"fresh minus baseline, last third of the regimes: {interval_text(verdict.late_gap)}",
        f"regimes in which a fresh network beats the untrained policy: "
        f"{100 * verdict.learnable_share:.0f} %",
    ]
    for arm, table in tables_of(study).items():
        if table.grid.is_accepted:
            lines.append(
                f"fresh networks of {arm}: interpolated in the logarithm from "
                f"{len(table.grid.values)} values x {len(table.seeds)} seeds ({table.file_name}); "
                f"{error_text(table.grid)}; their seeds are resampled in every draw, for the "
                "indices and for the thresholds of recovery"
            )
    if VERIFIED in study.about:
        lines.append(f"switches verified, says who made this report: {study.about[VERIFIED]}")
    decision = "accepted for comparing methods"
    if verdict.lacks_seeds_only:
        decision = "not accepted yet; the comparison of methods above is exploratory"
    elif not verdict.accepted:
        decision = "refused for comparing methods, and no methods are ranked above"
    reasons = f" ({'; '.join(verdict.reasons)})" if verdict.reasons else ""
    return [
        Text(
            f"Validity gate ({scores.oracle} against {study.baseline}): this benchmark is "
            f"{decision}{reasons}."
        ),
        Text(items=tuple(lines)),
    ]


def _origin(study: Study) -> list[Block]:
    about = study.about
    commands = [*about["training_commands"], about["command"]]
    again = shlex.join(["python", "evaluate.py", "compare", "--from", f"{about['out']}/data"])
    blocks: list[Block] = [Heading("How this was made")]
    blocks.append(Commands(tuple(line for line in (*commands, again) if line)))
    if not about["training_commands"]:
        blocks.append(
            Text("The runs were not started by a sweep; their settings are listed under Arms.")
        )
    items = [
        f"bins: {_bins(study)}",
        *(f"machine: {machine}" for machine in about["machines"]),
        *(f"commit: {commit}" for commit in about["commits"]),
        f"intervals: {study.num_draws:,} bootstrap draws of whole runs, 2,000 for curves and "
        "correlations, fixed seed",
    ]
    return [*blocks, Text(items=tuple(items))]


def _bins(study: Study) -> str:
    found = []
    for quantity, label in (("return", "returns"), ("dormant_fraction", "diagnostics")):
        size = study.matrix(study.baseline, f"curve/{quantity}").shape[1]
        if size:
            found.append(f"{label} in {size} equal bins of time")
    return ", ".join([*found, "an empty bin is missing"])


# Markdown ------------------------------------------------------------------------------------


def to_markdown(blocks: Sequence[Block]) -> str:
    """GitHub-flavoured Markdown; pictures are links to the folder `figures`."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}"
    if isinstance(block, Commands):
        return "```\n" + "\n".join(block.lines) + "\n```"
    if isinstance(block, Picture):
        caption = CAPTIONS[block.name]
        return f"![{caption}](figures/{block.name}.png)\n\n*{caption}*"
    if isinstance(block, Table):
        rows = [block.header, ("---",) * len(block.header), *block.rows]
        lines = ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows]
        parts = [f"## {block.title}", "\n".join(lines), *([block.caption] if block.caption else [])]
        return "\n\n".join(parts)
    return "\n".join(f"- {item}" for item in block.items) if block.items else block.text


# HTML ----------------------------------------------------------------------------------------


def to_html(blocks: Sequence[Block], title: str, figures: Mapping[str, bytes]) -> str:
    """One page that needs no other file and no network."""
    body = "\n".join(_html(block, figures) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"{body}\n</body>\n</html>\n"
    )


def _html(block: Block, figures: Mapping[str, bytes]) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{html.escape(block.text)}</h{block.level}>"
    if isinstance(block, Commands):
        return f"<pre>{html.escape(chr(10).join(block.lines))}</pre>"
    if isinstance(block, Picture):
        data = base64.b64encode(figures[f"{block.name}.png"]).decode()
        caption = html.escape(CAPTIONS[block.name])
        return (
            f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    if isinstance(block, Table):
        rows = [_html_row("th", block.header), *(_html_row("td", row) for row in block.rows)]
        caption = f'<p class="caption">{html.escape(block.caption)}</p>' if block.caption else ""
        table = "\n".join(rows)
        title = html.escape(block.title)
        return f'<h2>{title}</h2>\n<div class="table"><table>\n{table}\n</table></div>\n{caption}'
    if block.items:
        return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in block.items) + "</ul>"
    return f"<p>{html.escape(block.text)}</p>"


def _html_row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"
