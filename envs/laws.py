"""What values a changing quantity may take, and how they are drawn, mixed and swung."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Law:
    """Range and scale of one quantity.

    Attributes:
        low: Smallest value that is drawn.
        high: Largest value that is drawn; None where the robot decides (one per actuator).
        nominal: The value of the unchanged world; of schedule=fixed unless told otherwise.
        scale: log (uniform in the logarithm, values above 0), linear (uniform) or whole (whole
            numbers that only name worlds, so that nothing lies between two of them).
        unit: For tables and messages.
        floor: Values below it are impossible; 0 where any positive number (log) is possible.
    """

    low: float
    high: float | None
    nominal: float
    scale: str = "log"
    unit: str = ""
    floor: float = 0.0

    @property
    def top(self) -> float:
        """The largest value that is drawn; the smallest one while nobody has decided."""
        return self.low if self.high is None else self.high

    def narrowed(self, low: float | None, high: float | None, count: int | None) -> Law:
        """The same law with other ends; ``count`` is the upper end where the robot decides.

        Raises:
            ValueError: If an end is not a value of this law, or the ends are the wrong way round.
        """
        first = self.low if low is None else self.check(low, "low")
        last = self.high if high is None else self.check(high, "high")
        if last is None and count is not None:
            last = float(count)
        if last is not None and (first > last or (first == last and self.scale != "whole")):
            raise ValueError(f"low={first:g} must be below high={last:g}; swap or widen them.")
        return replace(self, low=first, high=last)

    def check(self, value: float, where: str) -> float:
        """Return ``value`` as a float if this quantity can take it.

        Raises:
            ValueError: If it is not finite, not above 0 (log) or not a whole number from 0 (whole).
        """
        number = float(value)
        wanted = {
            "log": "a finite number above 0",
            "linear": "a finite number",
            "whole": "a whole number from 0",
        }[self.scale]
        is_whole = math.isfinite(number) and number >= 0.0 and number == round(number)
        fits = {"log": number > 0.0, "linear": True, "whole": is_whole}[self.scale]
        if not (fits and math.isfinite(number)):
            example = f"choose for example a value between {self.low:g} and {self.top:g}"
            raise ValueError(f"{where} is {value!r}, but it must be {wanted}; {example}.")
        if self.scale == "log" and number < self.floor:
            raise ValueError(
                f"{where} is {value!r}, but the simulator takes nothing below {self.floor:g}; "
                f"give at least that."
            )
        return number

    def draw(self, uniform: float, previous: float | None) -> float:
        """The value that belongs to a uniform number in [0, 1).

        Whole numbers never repeat at once where there are two or more, because a world that
        follows itself is no change.

        Args:
            uniform: In [0, 1).
            previous: Value of the world before, None for the first.
        """
        if self.scale == "log":
            log_low, log_high = math.log(self.low), math.log(self.top)
            return math.exp(log_low + uniform * (log_high - log_low))
        if self.scale == "linear":
            return self.low + uniform * (self.top - self.low)
        count = int(self.top - self.low) + 1
        if previous is None or count == 1:
            return self.low + math.floor(uniform * count)
        step = 1 + math.floor(uniform * (count - 1))
        return self.low + (int(previous - self.low) + step) % count

    def mix(self, first: float, second: float, share: float) -> float:
        """The value ``share`` of the way from ``first`` to ``second``."""
        if self.scale == "log":
            return math.exp((1.0 - share) * math.log(first) + share * math.log(second))
        return (1.0 - share) * first + share * second

    def pair(self) -> list[float]:
        """Two worlds that alternate unless told otherwise: the ends, or nominal and lowest.

        Raises:
            ValueError: If these are one and the same.
        """
        if self.scale == "whole":
            if self.low == self.nominal:
                raise ValueError(
                    f"low={self.low:g} is the unchanged world, with which schedule=cyclic "
                    "alternates, so that nothing would ever change; choose another low, or values."
                )
            return [self.nominal, self.low]
        return [self.low, self.top]

    def swing(self) -> tuple[float, float]:
        """Centre and deflection (factor or summand) of a sinusoid between the ends."""
        if self.scale == "log":
            return math.sqrt(self.low * self.top), math.sqrt(self.top / self.low)
        return (self.low + self.top) / 2.0, (self.top - self.low) / 2.0

    def deflected(self, centre: float, deflection: float, sine: float) -> float:
        """The value of a sinusoid where the sine is ``sine``."""
        if self.scale == "log":
            return math.exp(math.log(centre) + math.log(deflection) * sine)
        return centre + deflection * sine

    def spread(self, count: int) -> list[float]:
        """``count`` values in the middles of equally likely parts of the range; whole ones repeat
        where there are fewer."""
        if self.scale == "whole":
            available = int(self.top - self.low) + 1
            return [self.low + (k * max(1, available // count)) % available for k in range(count)]
        log = self.scale == "log"
        low, high = (math.log(self.low), math.log(self.top)) if log else (self.low, self.top)
        quantiles = [(k + 0.5) / count for k in range(count)]
        values = [low + q * (high - low) for q in quantiles]
        return [math.exp(value) for value in values] if log else values
