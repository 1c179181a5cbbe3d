"""Agents that tell tasks apart by the context, where a control replaces it."""

import types

import pytest

from configs.build import with_context
from configs.compose import compose_run
from configs.schema import ConfigurationError


class Envs:
    closed = False

    def close(self):
        self.closed = True


def layer(*words):
    envs = Envs()
    config = compose_run(["env=mt10", *words]).config
    try:
        return with_context(config, envs, types.SimpleNamespace())
    except ConfigurationError:
        assert envs.closed
        raise


@pytest.mark.parametrize("context", ["zero", "constant", "shuffled", "delayed"])
@pytest.mark.parametrize(
    "words",
    [
        ["agent=sac", "agent.temperature_per_task=true"],
        ["agent=ppo", "agent.normalize_advantage=per_task"],
        ["agent=mtppo", "agent.rollout_length=500", "agent.minibatch_size=100"],
    ],
)
def test_false_tasks_are_refused(context, words):
    with pytest.raises(ConfigurationError, match=r"tells tasks apart.*context\.input=source"):
        layer(f"context={context}", *words)


def test_worlds_that_are_not_found_yet_have_no_temperature():
    words = ["agent=sac", "agent.temperature_per_task=true"]
    with pytest.raises(ConfigurationError, match="context=detected names none until it has found"):
        layer("context=detected", *words)
    with pytest.raises(AttributeError):  # by empty environments
        layer("context=detected", "agent=ppo", "agent.normalize_advantage=per_task")


@pytest.mark.parametrize(
    "words",
    [
        [
            "context=shuffled",
            "context.input=source",
            "agent=sac",
            "agent.temperature_per_task=true",
        ],
        ["context=shuffled", "agent=sac"],
        ["context=task", "agent=sac", "agent.temperature_per_task=true"],
    ],
)
def test_true_tasks_are_not(words):
    with pytest.raises((ConfigurationError, AttributeError)) as refusal:  # by empty environments
        layer(*words)
    assert "tells tasks apart" not in str(refusal.value)
