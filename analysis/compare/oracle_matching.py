"""Which table of fresh networks stands for which arm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analysis.compare.arms import Arm, CannotCompare
from analysis.compare.measuring import Clock
from analysis.compare.oracle_settings import INTERVAL_KEY, OracleSettings, refuse_schedule
from analysis.compare.oracle_table import OracleTable


def match_tables(
    tables: Iterable[tuple[OracleTable, bool]], arms: Sequence[Arm], clock: Clock
) -> dict[str, OracleTable]:
    """Find the arm that every table stands for.

    Args:
        tables: From `read_tables`.
        arms: Of the comparison.
        clock: Of the comparison.

    Returns:
        Name of an arm -> the table of its fresh networks.

    Raises:
        CannotCompare: The worlds of these runs need networks of their own, a table that was named
            itself fits no arm, or none of a folder does.
    """
    listed = list(tables)
    if not listed:
        return {}
    env = arms[0].members[0].config["env"]
    try:
        refuse_schedule(env)
    except ValueError as error:
        raise CannotCompare(str(error)) from error
    if clock.windows:
        raise CannotCompare(
            "an interpolated oracle needs 2 to 50 regimes; these runs have fewer or more"
        )
    wanted = {
        arm.name: OracleSettings.of(arm.members[0].config, int(env[INTERVAL_KEY]))
        for arm in arms
        if arm.fresh_of is None
    }
    found: dict[str, OracleTable] = {}
    reason = ""
    for table, is_named in listed:
        names = [name for name, settings in wanted.items() if settings.key == table.settings.key]
        found |= dict.fromkeys(names, table)
        if not names:
            close = wanted.get(table.arm, next(iter(wanted.values())))
            reason = f"{table.file_name} fits no arm: {table.settings.difference(close)}"
            if is_named:
                raise CannotCompare(f"{reason}; name another table, or train one for these runs")
    if not found:
        raise CannotCompare(f"no table fits an arm of these runs; for example, {reason}")
    return found
