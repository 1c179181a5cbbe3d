"""How many units are due for replacement: counted on the host, without looking at the units.

Which units get replaced depends on the data, how many does not: a unit is eligible once its age
exceeds the maturity threshold, and only eligible units are replaced. A queue of (call at which
they mature, how many) therefore knows the count at every call, and no device is ever asked.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch

COUNT_MODES = ("accumulate", "accumulate_strict", "bernoulli")
# Sums of rates such as 10 x 0.01 fall short of the whole number they stand for by rounding.
ROUNDING = 1e-9


class ReplacementCounter:
    """Ages, eligible units and the fractional number of units due, for one unit group.

    Args:
        num_units: Units of the group.
        replacement_rate: Share of the eligible units to replace per call, in [0, 1].
        maturity_threshold: A unit is eligible when its age in calls exceeds this.
        count_mode: `accumulate` replaces whole units as soon as they add up; `accumulate_strict`
            replaces one when the sum exceeds 1; `bernoulli` draws.

    Attributes:
        calls: Calls so far.
        eligible: Units that were eligible at the last call, less those replaced in it.
        accumulator: Fraction of a unit still owed.
        replaced_total: Units replaced so far.
    """

    def __init__(
        self,
        num_units: int,
        replacement_rate: float,
        maturity_threshold: int,
        count_mode: str = "accumulate",
    ) -> None:
        self.replacement_rate = replacement_rate
        self.maturity_threshold = maturity_threshold
        self.count_mode = count_mode
        self.calls = 0
        self.eligible = 0
        self.accumulator = 0.0
        self.replaced_total = 0
        self._maturing = deque([(maturity_threshold + 1, num_units)])

    def advance(self, generator: torch.Generator | None = None) -> int:
        """Count one call and return how many eligible units are to be replaced in it.

        Args:
            generator: Random stream, drawn from by `bernoulli` only. Keep it on the CPU.

        Raises:
            ValueError: `bernoulli` without a generator.

        Source: Dohare et al. 2024, Algorithm 1.
        Deviation: `bernoulli` stays unbiased above one unit per call, where the public code
            rounds down.
        """
        self.calls += 1
        while self._maturing and self._maturing[0][0] <= self.calls:
            self.eligible += self._maturing.popleft()[1]
        if not self.eligible:
            return 0
        due = self._due(self.replacement_rate * self.eligible, generator)
        if due:
            self.eligible -= due
            self.replaced_total += due
            self._maturing.append((self.calls + self.maturity_threshold + 1, due))
        return due

    def is_due_next(self) -> bool:
        """Whether the next `advance` may return more than 0; nothing is counted or drawn.

        `bernoulli` draws, so every call with an eligible unit may.
        """
        eligible = self.eligible
        for call, count in self._maturing:
            if call > self.calls + 1:
                break
            eligible += count
        if not eligible or self.count_mode == "bernoulli":
            return bool(eligible)
        accumulated = self.accumulator + self.replacement_rate * eligible
        if self.count_mode == "accumulate_strict":
            return accumulated > 1.0 + ROUNDING
        return math.floor(accumulated + ROUNDING) > 0

    def _due(self, rate: float, generator: torch.Generator | None) -> int:
        if self.count_mode == "bernoulli":
            if generator is None:
                raise ValueError("count_mode=bernoulli needs a random generator")
            draw = torch.rand((), generator=generator, device=generator.device).item()
            return math.floor(rate) + (draw < rate - math.floor(rate))
        self.accumulator += rate
        if self.count_mode == "accumulate_strict":
            due = int(self.accumulator > 1.0 + ROUNDING)
        else:
            due = math.floor(self.accumulator + ROUNDING)
        self.accumulator -= due
        return due

    def state_dict(self) -> dict[str, Any]:
        """Return all counters."""
        return {
            "calls": self.calls,
            "eligible": self.eligible,
            "accumulator": self.accumulator,
            "replaced_total": self.replaced_total,
            "maturing": [list(entry) for entry in self._maturing],
            "maturity_threshold": self.maturity_threshold,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.calls = int(state["calls"])
        self.eligible = int(state["eligible"])
        self.accumulator = float(state["accumulator"])
        self.replaced_total = int(state["replaced_total"])
        self._maturing = deque((int(call), int(count)) for call, count in state["maturing"])

    def recount(self, born: Sequence[int]) -> None:
        """Work out again who is eligible, from the units themselves.

        For units that somebody else has drawn anew, and for a state saved under another maturity
        threshold.

        Args:
            born: Call at which every unit was last renewed.
        """
        mature_at = sorted(call + self.maturity_threshold + 1 for call in born)
        self.eligible = sum(call <= self.calls for call in mature_at)
        self._maturing = deque((call, 1) for call in mature_at if call > self.calls)


def expected_replacements(
    num_units: int, replacement_rate: float, maturity_threshold: int, planned_calls: int
) -> int:
    """Units of one group that `accumulate` replaces in a run; `bernoulli` does on average.

    Jumps from event to event instead of counting every call.
    """
    maturing = deque([(maturity_threshold + 1, num_units)])
    call, eligible, owed, total = 0, 0, 0.0, 0
    while call < planned_calls:
        rate = replacement_rate * eligible
        fires = call + max(1, math.ceil((1.0 - ROUNDING - owed) / rate)) if rate else planned_calls
        matures = maturing[0][0] - 1 if maturing else planned_calls
        stop = min(fires, matures, planned_calls)
        owed += rate * (stop - call)
        call = stop
        due = math.floor(owed + ROUNDING)
        if due:
            owed, total, eligible = owed - due, total + due, eligible - due
            maturing.append((call + maturity_threshold + 1, due))
        while maturing and maturing[0][0] - 1 <= call:
            eligible += maturing.popleft()[1]
    return total
