"""What every arm was told, allowed to start anew, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.compare.arm_scores import ArmScores, Scores
from analysis.compare.cells import DASH, Table
from analysis.compare.overheads import OVERHEADS
from analysis.compare.presets import TUNING
from analysis.compare.study import Study


@dataclass(frozen=True)
class PairedOverheads:
    """Overheads of a benchmark for the arms that it has a row for.

    Attributes:
        arms: Name -> facts, see `analysis.compare.overheads.overhead_facts`.
        caption: Where they come from.
    """

    arms: Mapping[str, Mapping[str, Any]]
    caption: str

    def env_step(self, arm: str, baseline: str) -> str:
        """Extra time per environment step, simulation included."""
        return self._cell("env_step", arm, baseline)

    def gradient_step(self, arm: str, baseline: str) -> str:
        """Extra time per gradient step."""
        return self._cell("gradient_step", arm, baseline)

    def _cell(self, quantity: str, arm: str, baseline: str) -> str:
        if arm == baseline:
            return "baseline"
        if arm not in self.arms:
            return DASH
        facts = self.arms[arm]
        middle, low, high = (_percent(value) for value in facts[quantity])
        return f"{'' if facts['is_exact'] else '≈ '}{middle} [{low}, {high}]"


def _percent(value: float) -> str:
    return f"{100 * value:+.1f} %"


def paired_overheads(study: Study) -> PairedOverheads | None:
    """Those of a study; None without a benchmark."""
    facts = study.about.get(OVERHEADS)
    if not facts:
        return None
    arms = facts["arms"]
    rows = ", ".join(f"{name}: {arms[name]['row']}" for name in arms)
    caption = (
        f"Paired: one process times preset and plain Adam alternately on the same data "
        f"({facts['machine']}; {facts['file']}, made by `{facts['command']}`"
        f"{'; ' + rows if rows else ''}), median and range of the pairs, in extra time"
    )
    if not all(arm["is_exact"] for arm in arms.values()):
        caption += "; ≈: the benchmark ran other settings of the same preset"
    return PairedOverheads(arms, f"{caption}; {DASH} where it has no such row.")


def fairness_table(study: Study, scores: Scores) -> Table:
    """One row per arm."""
    paired = paired_overheads(study)
    header = ["arm", "uses task boundary", "context", "context is oracle"]
    header += ["context uses boundaries", "resets optimizer", "resets replay"]
    header += ["begins all anew", "parameters", "peak memory (MiB)"]
    header += ["overhead per gradient step [range]"] if paired is not None else []
    rows = []
    for arm in scores.arms:
        cells = [*_rights(arm), *_needs(arm)]
        if paired is not None:
            cells.append(paired.gradient_step(arm.facts.name, study.baseline))
        tuned = (study.about.get(TUNING) or {}).get(arm.facts.name, "not tuned")
        rows.append((*cells, tuned, str(len(study.runs[arm.facts.name]))))
    return Table(
        "What the arms were allowed",
        (*header, "tuning", "seeds"),
        tuple(rows),
        "Asked from the methods, the agent and the settings of the context. A context is an oracle "
        "if it tells the truth about the world, and uses boundaries if that shows when the world "
        "changes. Optimizer: `entries` of the units or weights that a method edits, or `all`; by "
        "methods or by the agent's own settings at switches. All anew: networks, optimizer, "
        "normaliser and replay at every switch; no other arm resets a normaliser. Parameters of "
        "all networks at the end of a run; memory: largest resident set of the processes of a run, "
        f"libraries included; both the largest over runs, {DASH} where no run says. Tuning: "
        "what the preset of an arm says about how it was chosen.",
    )


def _rights(arm: ArmScores) -> list[str]:
    facts = arm.facts
    fresh = facts.settings.get("fresh_at_switch") == "True"
    return [
        facts.name,
        "yes" if facts.uses_task_boundary else "no",
        facts.context,
        "yes" if facts.context_is_oracle else "no",
        "yes" if facts.context_uses_boundaries else "no",
        facts.resets_optimizer,
        facts.replay_rule or DASH,
        "yes" if fresh else "no",
    ]


def _needs(arm: ArmScores) -> list[str]:
    parameters = DASH if math.isnan(arm.parameters) else f"{arm.parameters:,.0f}"
    memory = DASH if math.isnan(arm.peak_memory_mib) else f"{arm.peak_memory_mib:,.0f}"
    return [parameters, memory]
