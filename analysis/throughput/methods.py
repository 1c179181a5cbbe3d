"""What every method, optimizer and network variant adds to a gradient step of PPO and of SAC.

One process on one core holds an agent of every preset; each is timed beside plain Adam on the
same rollout, for SAC on the same replay, pair by pair. Costs that are rarer than a rollout (checks
every 1,000 steps, edits at task changes) have rows of their own.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.throughput.plan import GRADIENT_STEPS_PER_ENV_STEP
from analysis.throughput.section import Options, Section, Table, percent
from analysis.throughput.summary import Spread, spread

CONFIGS = Path(__file__).parents[2] / "configs"
NETWORKS = ("layer_norm", "crelu", "deep_fourier", "smooth_leaky", "k_winners", "simba")
ARMS = ("l2", "continual_backprop", "redo")  # as they are published
EXTRA = {
    "redo, a check every 10 steps": ["method=redo", "method.redo.period=10"],
    "regrama, a check every 10 steps": ["method=regrama", "method.regrama.period=10"],
    "hare_tortoise, a swap every 10 steps": [
        "method=hare_tortoise",
        "method.hare_tortoise.period=10",
    ],
    "agent.fast_path=false": ["agent.fast_path=false"],
}
PPO_ALONE = {"agent.matmul_precision=bfloat16": ["agent.matmul_precision=bfloat16"]}
LIMITS = {"method=continual_backprop": 0.05}
MEDIAN_LIMIT = OUTLIER = 0.15
AUTOGRAD = "autograd instead of the hand-written pass"
PENALTY = f"a penalty on the loss, so {AUTOGRAD}, and "
ADAPTABLE = (
    "a utility of deviations from running means over incoming weights: sums over activations and "
    "over every matrix twice, layer by layer instead of one buffer"
)
FRESH_DRAWS = "a full set of fresh normal draws for all weights at every step"
REASONS = {
    "c_chain": PENALTY + "two more forward passes (a reference batch, now and before the step)",
    "continual_backprop_pairs": ADAPTABLE,
    "continual_backprop_regression": ADAPTABLE,
    "continual_backprop_fisher": f"gradients at hidden units, so {AUTOGRAD}",
    "continual_backprop_propagated": "two products with every reading matrix and no shared buffer",
    "ewc": PENALTY + "a weighted sum of squares over all policy weights",
    "injection": f"heads with a frozen and a fresh part, so {AUTOGRAD}",
    "l2_init": PENALTY + "a distance over all weights and its gradient",
    "nap": f"LayerNorm, so {AUTOGRAD}, and a norm and a rescaling of every matrix per step",
    "parseval": PENALTY + "W W^T and its gradient, three products of 256^3 per hidden layer: "
    "2 x 3 x 256 x 256 x 256 FLOP against 6 x B x 256 x 256 of the layer itself for a minibatch of "
    "B, twice as much for 128",
    "regrama": "mean |gradient| of every row at the last steps before a check",
    "shrink_perturb_published": FRESH_DRAWS,
    "shrink_perturb_soft": FRESH_DRAWS,
    "si": PENALTY + "path integrals: a copy of, and two products over, all policy weights",
    "snr": "silence counters of all units at every step",
    "spectral": PENALTY + "a power iteration with two products per matrix, and its gradient",
    "wasserstein_init": PENALTY + "a sort of every weight matrix (65,536 numbers) per step",
    "weight_clipping": "a clamp of every parameter",
    "hare_tortoise": "an average of all weights: three passes over all parameters",
    "adam_rel": "",
    "trac": "six discounted sums and inner products over all parameters in place of one kernel",
    "idbd": "a step size and a trace of every weight: an exponential and ten passes, unfused",
    "autostep": "the same with a normaliser of every weight and a sum over all, unfused",
    "upgd": "normal draws, utilities and a global maximum over all parameters, unfused",
    "layer_norm": f"normalisation, so {AUTOGRAD}",
    "crelu": AUTOGRAD,
    "deep_fourier": f"sine and cosine of every unit, and {AUTOGRAD}",
    "smooth_leaky": f"an activation of several operations, and {AUTOGRAD}",
    "k_winners": f"a selection of the largest quarter of every row, and {AUTOGRAD}",
    "simba": f"residual blocks four times as wide inside, LayerNorm, and {AUTOGRAD}",
    "agent.fast_path=false": AUTOGRAD,
}

OF_CONTEXTS = ("continual_backprop_contexts",)  # refused in the worlds timed here, which tell none
OF_ROLLOUTS = ("adam_rel",)  # refused where the objective never changes


@dataclass(frozen=True)
class Bench:
    """One agent whose gradient steps are timed.

    Attributes:
        section: Name of its section.
        words: Of the command line, before those of a row.
        title: Heading.
        step: What a gradient step is.
        bars: Whether the rows have bars to stay below.
    """

    section: str
    words: tuple[str, ...]
    title: str
    step: str
    bars: bool


BENCHES = {
    "ppo": Bench(
        "methods",
        (),
        "Methods, optimizers and networks: overhead per gradient step",
        "both networks (2 x 256, minibatch 128)",
        bars=True,
    ),
    "sac": Bench(
        "methods_sac",
        ("agent=sac",),
        "The same with SAC: overhead per gradient step",
        "both critics, their targets, the actor and the temperature (2 x 256, batch 256)",
        bars=False,
    ),
}


def presets(group: str) -> list[str]:
    """Names of all presets of a configuration group, test presets left out."""
    names = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    return [name for name in names if not name.endswith("_smoke")]


def subjects(quick: bool, agent: str = "ppo") -> dict[str, list[str]]:
    """Name of a row -> overrides of the command line, for an agent of `BENCHES`."""
    if quick:
        return {f"method={name}": [f"method={name}"] for name in ("continual_backprop", "l2_init")}
    methods = [name for name in presets("method") if name not in OF_CONTEXTS]
    optimizers = {*presets("optimizer")} - ({"adam"} if agent == "ppo" else {"adam", *OF_ROLLOUTS})
    rows = {f"method={name}": [f"method={name}"] for name in methods}
    rows |= {f"optimizer={name}": [f"optimizer={name}"] for name in sorted(optimizers)}
    rows |= {f"network={name}": [f"network={name}"] for name in NETWORKS}
    rows |= {f"arm={name}": [f"arm={name}"] for name in ARMS}
    return {**rows, **EXTRA, **(PPO_ALONE if agent == "ppo" else {})}


def measure_in_worker(settings: Mapping[str, Any], wait: Callable[[], None]) -> dict[str, Any]:
    """Time all presets; runs in a process of its own.

    Args:
        settings: `rows` (name -> overrides), `repeats`, `seconds`, `agent` (a key of `BENCHES`,
            `ppo` without it), and of PPO `num_epochs` and `vector_steps` of the rollout.
        wait: See `window.Window`.

    Returns:
        `agent`; `rate`: gradient steps per environment step; `pairs`: name -> (base, other)
        seconds per gradient step of all networks, one per repeat; `events`: name -> seconds of a
        task change; `interaction`: seconds per environment step of simulating and acting.
    """
    import torch

    from analysis.throughput.interleave import interleaved

    torch.set_num_threads(1)
    agent = settings.get("agent", "ppo")
    base = _learner(settings)
    wait()
    pairs, events = {}, {}
    for name, overrides in settings["rows"].items():
        learner = _learner(settings, overrides)
        learner.lap()
        if learner.agent.methods_that_need_boundaries():
            events[name] = [learner.change_task(task) for task in (1, 2, 3)]
        found = interleaved(
            base.lap,
            {name: learner.lap},
            settings["repeats"],
            settings["seconds"],
            time.thread_time,
        )
        pairs[name] = [(pair.base, pair.other) for pair in found[name]]
        learner.agent.close()
        del learner
        gc.collect()
    rate = GRADIENT_STEPS_PER_ENV_STEP if agent == "ppo" else base.updates_per_env_step
    interaction = _interaction(agent, settings["repeats"])
    return {
        "agent": agent,
        "rate": rate,
        "pairs": pairs,
        "events": events,
        "interaction": interaction,
    }


def _learner(settings: Mapping[str, Any], overrides: Sequence[str] = ()) -> Any:
    from analysis.throughput.learners import PPOLearner, PresetSACLearner

    if settings.get("agent", "ppo") == "sac":
        return PresetSACLearner(overrides)
    return PPOLearner(
        overrides, num_epochs=settings["num_epochs"], vector_steps=settings["vector_steps"]
    )


def _interaction(agent: str, repeats: int, vector_steps: int = 40) -> list[float]:
    """Seconds per environment step of 16 environments on one thread, acting included."""
    from envs.locomotion import Config, make

    envs, _ = make(Config(schedule="fixed"), total_steps=10**9)
    learner = _learner({"agent": agent, "num_epochs": 1, "vector_steps": vector_steps})
    acting = learner.agent
    observation, _ = envs.reset()
    found = []
    for _ in range(repeats):
        begin = time.thread_time()
        for step in range(vector_steps):
            if agent == "ppo":
                acting.rollout.position = step
            action = acting.act(observation, np.zeros((16, 0), dtype=np.float32), explore=True)
            observation = envs.step(action)[0]
        found.append((time.thread_time() - begin) / (16 * vector_steps))
    envs.close()
    acting.close()
    return found


def overhead(pairs: Sequence[Sequence[float]]) -> Spread:
    """Time of a gradient step with the feature over the time without it, less 1."""
    return spread([other / base - 1.0 for base, other in pairs])


def env_step_overhead(
    pairs: Sequence[Sequence[float]],
    interaction: float,
    rate: float = GRADIENT_STEPS_PER_ENV_STEP,
) -> Spread:
    """The same for an environment step of one single-threaded run, simulation included.

    Args:
        pairs: (base, other) seconds per gradient step.
        interaction: Seconds per environment step of simulating and acting.
        rate: Gradient steps per environment step.
    """
    return spread([(other - base) * rate / (interaction + base * rate) for base, other in pairs])


def section(found: Mapping[str, Any], options: Options) -> Section:
    """Tables from what `measure_in_worker` returned."""
    interaction = float(np.median(found["interaction"]))
    rate = found.get("rate", GRADIENT_STEPS_PER_ENV_STEP)
    bench = BENCHES[found.get("agent", "ppo")]
    fractions = {name: overhead(pairs) for name, pairs in found["pairs"].items()}
    cells = [
        _cells(name, fraction, env_step_overhead(found["pairs"][name], interaction, rate))
        for name, fraction in sorted(fractions.items(), key=lambda item: item[1].median)
    ]
    base = spread([1e3 * base for pairs in found["pairs"].values() for base, _ in pairs])
    events = [
        [name, f"{1e3 * float(np.median(seconds)):.1f} ms"]
        for name, seconds in found["events"].items()
    ]
    return Section(
        bench.section,
        bench.title,
        f"{options.repeats} interleaved pairs per row on one core, in CPU time of the one thread. "
        f"A gradient step of {bench.step} with plain Adam takes {base.median:.2f} ms "
        f"({base.low:.2f} to {base.high:.2f}); simulating and acting take "
        f"{1e6 * interaction:.0f} us per environment step. Per environment step: the same extra "
        f"time over simulating, acting and learning of one single-threaded run with {rate:g} "
        "gradient steps per environment step. Checks every 1,000 steps are not in the rows of "
        "their methods; the rows with a check every 10 steps show what one costs: a hundredth of "
        "their difference is to be added. Medians; in brackets the 95 % bootstrap interval.",
        [
            _summary(fractions, bench),
            Table(
                "Overhead",
                ("preset", "per gradient step", "per environment step", "explanation"),
                cells,
            ),
            Table("One announced task change, all networks", ("preset", "time"), events),
        ],
        dict(found),
    )


def _summary(fractions: Mapping[str, Spread], bench: Bench) -> Table:
    """The median over methods, and the rows that have a bar of their own."""
    methods = [f.median for name, f in fractions.items() if name.startswith("method=")]
    rows = [
        ["median method", f"{100 * float(np.median(methods)):.1f} %", _bar(MEDIAN_LIMIT)],
        *(
            [name, percent(fractions[name]), _bar(limit)]
            for name, limit in LIMITS.items()
            if name in fractions
        ),
    ]
    header = ("what", "overhead per gradient step", "bar")
    if bench.bars:
        return Table("Bars", header, rows)
    return Table("In short", header[:2], [row[:2] for row in rows])


def _bar(limit: float) -> str:
    return f"at most {100 * limit:.0f} %"


def _cells(name: str, fraction: Spread, env_step: Spread) -> list[str]:
    reason = ""
    if fraction.median > OUTLIER:
        key = name.split(", ")[0].rpartition("=")[2] if name not in REASONS else name
        reason = REASONS.get(key, REASONS.get(key.rpartition("_")[0], ""))
    return [name, percent(fraction), percent(env_step), reason]


def measure(options: Options, console: Any, agent: str = "ppo") -> Section:
    """Run the section of an agent, a key of `BENCHES`."""
    from analysis.throughput.processes import measure as run_processes

    worker = {
        "kind": "methods",
        "agent": agent,
        "num_threads": 1,
        "cores": list(options.cores[:1]),
        "rows": subjects(options.quick, agent),
        "repeats": options.repeats,
        "num_epochs": 2,
        "vector_steps": 128,
        "seconds": min(0.15, options.seconds),
    }
    what = f"{BENCHES[agent].section}: {len(worker['rows'])} rows beside plain Adam"
    console.print(what, highlight=False)
    return section(run_processes([worker], timeout_seconds=900.0)[0], options)


def measure_sac(options: Options, console: Any) -> Section:
    """Run the section of SAC."""
    return measure(options, console, "sac")
