"""The command line: presets, refusals with suggestions, and run directories."""

import itertools
import logging

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.utils import configure_log
from omegaconf import OmegaConf

from configs.compose import CONFIG_FOLDER, compose_run, method_ids, presets, without_none
from configs.run import ENVIRONMENTS
from configs.schema import ConfigurationError


def directory(*words):
    return compose_run(words).relative_directory


def test_a_run_directory_names_its_presets():
    assert directory("arm=l2", "seed=3") == "default/slippery_ant/ppo-mlp-l2/seed_3"
    assert directory() == "default/slippery_ant/ppo-mlp-adam/seed_0"
    assert directory("method=[redo, continual_backprop]", "optimizer=adamw") == (
        "default/slippery_ant/ppo-mlp-adamw.redo.continual_backprop/seed_0"
    )


def test_the_directory_is_a_pure_function_of_the_settings():
    first = directory("arm=l2", "agent.discount=0.98", "env.num_envs=32")
    assert first == directory("env.num_envs=32", "agent.discount=0.98", "arm=l2")
    assert first != directory("arm=l2")
    # Saying what the preset says already changes nothing.
    assert directory("agent.discount=0.99") == directory()
    # How to run is no part of what is run.
    assert directory("num_threads=1", "progress=false", "runs_root=elsewhere") == directory()


def test_settings_that_differ_never_share_a_directory():
    lines = [
        [],
        ["arm=standard"],
        ["arm=ns_adam"],
        ["arm=l2"],
        ["arm=continual_backprop"],
        ["arm=continual_backprop_published"],
        ["arm=redo"],
        ["method=[continual_backprop]"],
        ["method=[continual_backprop_published]"],
        ["method=[continual_backprop]", "method.continual_backprop.utility_decay=0.9"],
        ["optimizer=adamw"],
        ["env=ant"],
        ["env.world_seed=1"],
        ["seed=1"],
        ["seed=1", "env.world_seed=0"],
        ["group=other"],
        ["network=small"],
        ["network.layer_norm=true"],
        ["log.diagnostics=false"],
        ["total_steps=1000000"],
        ["experiment=quickstart"],
        ["experiment=quickstart", "group=default"],
        ["experiment=parity", "arm=standard"],
        ["group=parity", "arm=standard"],
        ["arm=ns_adam", "method=[redo,continual_backprop]"],
        ["arm=ns_adam", "method=[continual_backprop,redo]"],
    ]
    names = [directory(*line) for line in lines]
    for (first, a), (second, b) in itertools.combinations(zip(lines, names, strict=True), 2):
        assert a != b, (first, second)


def label(*words):
    return directory(*words).split("/")[2].partition("-")[2].partition("-")[2]


def test_a_run_is_not_named_after_an_arm_of_which_words_replace_a_preset():
    smoke = "experiment=slippery_ant_smoke"
    assert label(smoke) == "continual_backprop_smoke"
    assert label(smoke, "method=[redo]") == "ns_adam.redo"
    assert label(smoke, "method=none") == "ns_adam"
    decayed = label("arm=continual_backprop", "method=[redo]")  # by 1e-4, as in the arm
    assert decayed.startswith("ns_adam.redo-")
    assert decayed == label("arm=l2", "method=[redo]", "optimizer.weight_decay=1e-4")
    assert label("arm=redo", "optimizer=adam").startswith("adam.redo_published-")
    assert label("arm=layer_norm_only", "network=mlp") == "adam"
    assert label("arm=dendritic", "context=zero").startswith("adam-")
    # Whatever an arm leaves open belongs to no arm, and what it says itself replaces nothing.
    assert label("arm=standard", "method=[redo]") == label("method=[redo]") == "adam.redo"
    assert label("arm=dendritic", "optimizer=adamw").startswith("dendritic-")
    assert label("arm=redo", "optimizer=ns_adam") == label("arm=redo") == "redo"
    assert label("arm=redo", "network=small") == "redo"
    assert label("arm=redo", "method=[redo_published]").startswith("redo-")  # as it always was


def test_an_experiment_can_be_had_without_its_arm():
    smoke = ["experiment=slippery_ant_smoke"]
    assert compose_run(smoke).config.method
    bare = compose_run([*smoke, "arm=null"])
    assert not bare.config.method
    assert bare.plain["optimizer"]["kind"] == "adam"
    assert bare.plain["network"]["hidden_sizes"] == [32, 32]
    assert label(*smoke, "arm=null") == "adam"
    redo = ["method=[redo]", "method.redo.period=100"]
    assert label(*smoke, "arm=null", *redo).startswith("adam.redo-")
    assert directory("arm=null") == directory()


def stream_presets():
    kinds = {name: yaml_kind(CONFIG_FOLDER / "env" / f"{name}.yaml") for name in presets("env")}
    return {n for n, k in kinds.items() if hasattr(ENVIRONMENTS.get(k), "GIVES_ANSWERS")}


def yaml_kind(path):
    settings = OmegaConf.load(path)
    for base in settings.get("defaults", []):
        if isinstance(base, str) and base != "_self_" and "kind" not in settings:
            return yaml_kind(path.with_name(f"{base}.yaml"))
    return settings.kind


STREAMS = stream_presets()


@pytest.mark.parametrize("group", ["env", "arm", "optimizer", "network", "experiment"])
def test_every_preset_composes_and_type_checks(group):
    for name in presets(group):
        words = [f"{group}={name}"]
        if group == "env" and name in STREAMS:
            words.append("agent=supervised")
        if group == "arm" and name.startswith("permuted_"):  # one sets what only this world has
            words += ["env=permuted_digits", "agent=supervised"]
        assert compose_run(words).config.total_steps > 0


def test_every_method_preset_composes():
    for name in presets("method"):
        assert method_ids(name) == [*compose_run([f"method=[{name}]"]).config.method]


def test_published_arms():
    values = {}
    for arm in ("standard", "ns_adam", "l2", "continual_backprop", "redo"):
        config = compose_run([f"arm={arm}"]).config
        optimizer = config.optimizer
        values[arm] = (optimizer.beta1, optimizer.beta2, optimizer.weight_decay, [*config.method])
        assert optimizer.weight_decay_mode == "coupled"
        assert optimizer.learning_rate == 1e-4
    assert values == {
        "standard": (0.9, 0.999, 0.0, []),
        "ns_adam": (0.99, 0.99, 0.0, []),
        "l2": (0.99, 0.99, 1e-3, []),
        "continual_backprop": (0.99, 0.99, 1e-4, ["continual_backprop"]),
        "redo": (0.99, 0.99, 1e-4, ["redo"]),
    }
    method = compose_run(["arm=continual_backprop"]).config.method["continual_backprop"]
    assert (method.replacement_rate, method.maturity_threshold) == ("auto", "auto")
    redo = compose_run(["arm=redo"]).config.method["redo"]
    assert (redo.dormancy_threshold, redo.period, redo.optimizer_state) == (0.1, 100, "keep")


@pytest.mark.parametrize("experiment", ["quickstart", "slippery_ant_smoke", "parity"])
@pytest.mark.parametrize("arm", ["standard", "l2", "redo"])
def test_an_experiment_never_changes_what_an_arm_is(experiment, arm):
    plain = compose_run([f"arm={arm}"]).config
    inside = compose_run([f"experiment={experiment}", f"arm={arm}"]).config
    assert (inside.optimizer, inside.method) == (plain.optimizer, plain.method)


def test_parity_preset():
    config = compose_run(["experiment=parity", "arm=continual_backprop_published"]).config
    assert (config.env.num_envs, config.agent.rollout_length) == (1, 2048)
    assert config.env.obs_pad_to_111
    assert config.env.switch_rule == "episode_end"
    assert config.agent.timeouts_terminal
    assert config.method["continual_backprop"].count_mode == "bernoulli"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["agent.discont=0.9"], r"no setting agent\.discont; did you mean agent\.discount\?"),
        (["optimiser=adam"], "no setting optimiser; did you mean optimizer"),
        (["foo.bar=1"], "no setting foo"),
        (["env=slipery_ant"], "no env 'slipery_ant' .did you mean 'slippery_ant'"),
        (["method=[redoo]"], "no method 'redoo' .did you mean 'redo'"),
        (["method=[redo,redo]"], "names redo twice"),
        (["method.redo.period=5"], r"redo is not chosen; add it, as in method=\[redo\]"),
        (["agent.clip_range=nan"], "must be a finite number"),
        (["agent.value_coefficient=-1"], "agent.value_coefficient is -1.0; give 0 or more"),
        (["agent.entropy_coefficient=-1"], "agent.entropy_coefficient is -1.0; give 0 or more"),
        (["env.fixed_friction=0.1"], "not read by schedule=abrupt"),
        (["agent.discount=high"], "agent.discount is 'high'; it must be a number"),
        (["agent.discount=1.5"], r"agent.discount is 1.5; give a value in \[0, 1\]"),
        (["agent.minibatch_size=1"], "give at least 2"),
        (["env.num_envs=2.5"], "env.num_envs is 2.5; it must be a whole number"),
        (["env.schedule=fixed", "env.fixed_friction=0"], "friction"),
        (["env.friction_low=-1"], "friction_low"),
        (["env.switch_interval=1000"], "shorter than one rollout"),
        (["optimizer.learning_rate=0"], "learning_rate"),
        (["method=[continual_backprop]", "method.continual_backprop.utility_decay=1"], "decay"),
        (["seed=-1"], "seed is -1"),
        (["group=../elsewhere"], "group is"),
        (["fresh_parts=[policy]"], "fresh_parts needs init_from"),
        (["agent"], "write key=value"),
        (["network.hidden_sizes=[]"], "hidden_sizes"),
        (["network.activation=rellu"], "activation is 'rellu'"),
        (["method=[reset_head,optimizer_reset]"], "reset_head and optimizer_reset are presets of"),
        (
            ["method=[redo,continual_backprop,continual_backprop_fast]"],
            "method, continual_backprop",
        ),
        (
            ["network=[mlp,small]"],
            "only method takes one; write network=mlp, or sweep: -m network=",
        ),
        (["arm=[l2]"], "only method takes one; write arm=l2$"),
        (["env=[]"], "chooses nothing"),
        (
            ["method=[reset_head]", "method.reset_head.period=5"],
            r"not after its preset reset_head: write method\.reset\.period$",
        ),
        (
            ["method=[redo_published]", "method.redo_published.threshold=1"],
            r"no setting method\.redo\.threshold; did you mean method\.redo\.dormancy_threshold\?",
        ),
        # Settings of a preset that is not chosen, though the default composition has them.
        (["agent=sac", "agent.clip_range=0.2"], r"^there is no setting agent\.clip_range; known"),
        (["env=mt10", "agent=sac", "env.schedule=fixed"], r"^there is no setting env\.schedule"),
        (["optimizer=sgd", "optimizer.beta1=0.9"], r"^there is no setting optimizer\.beta1"),
        # Settings that nobody typed.
        (
            ["experiment=slippery_ant_smoke", "agent=sac"],
            r"^experiment=slippery_ant_smoke sets agent\.rollout_length, which agent=sac does not",
        ),
        (
            ["network=simba", "method=[nap]"],
            r"^method=\[nap\] sets network\.layer_norm, which network=simba does not have",
        ),
        (["network=simba", "arm=nap"], r"^method=\[nap\] sets network\.layer_norm"),
        (
            ["experiment=slippery_ant_smoke", "agent=sac", "agent.rollout_length=8"],
            r"^there is no setting agent\.rollout_length",
        ),
        (["method.redo_sac.period=5"], r"write method\.redo\.period beside method=\[redo_sac\]"),
        (["agent.learning_rate=1e-3"], r"did you mean optimizer\.learning_rate\?"),
        (["learning_rate=1e-3"], r"did you mean optimizer\.learning_rate\?"),
        (["seed=[0,1]"], "seed is .0, 1., but a run has one; sweep: -m seed=0,1$"),
        (["seed=abc"], "^seed is 'abc'; it must be a whole number"),
        (["seed=1.5"], "^seed is 1.5"),
        (["run_dir=~/x"], r"write run_dir=\$HOME/x"),
    ],
)
def test_bad_input_gets_one_clear_sentence(words, message):
    with pytest.raises(ConfigurationError, match=message) as error:
        compose_run(words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("schedule", ["fixed", "sinusoidal"])
def test_experiments_keep_their_interval_under_schedules_without_one(schedule):
    config = compose_run(["experiment=slippery_ant_smoke", f"env.schedule={schedule}"]).config
    assert config.env.switch_interval == 4096


def test_no_method_has_a_name():
    assert compose_run(["method=none"]).config.method == {}
    assert directory("method=none") == directory("method=[]") == directory()
    assert without_none("method=none,[l2_init,redo]") == "method=[],[l2_init,redo]"  # of a sweep
    assert without_none("boundary=none") == "boundary=none"


def test_hydra_leaves_the_loggers_alone_that_exist_already():
    logger = logging.getLogger("envs.simulation")
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        hydra = compose("train", return_hydra_config=True).hydra
    try:
        configure_log(hydra.hydra_logging)
        configure_log(hydra.job_logging)
        assert not logger.disabled
    finally:
        logger.disabled = False
