"""The compiled models are Gymnasium's, number by number."""

import gymnasium
import mujoco
import numpy as np
import pytest

from envs import robots

PHYSICS_PREFIXES = (
    "body_", "geom_", "jnt_", "dof_", "actuator_", "qpos", "site_", "tendon_", "eq_", "exclude_",
    "pair_", "key_", "numeric_", "sensor_",
)  # fmt: skip
COLOURS = {"geom_matid", "geom_rgba"}


def physics_fields(model):
    """Every array of the model that the simulation can read, and every number of the options."""
    fields = {}
    for name in dir(model):
        if name.startswith(PHYSICS_PREFIXES) and name not in COLOURS:
            value = getattr(model, name)
            if isinstance(value, np.ndarray):
                fields[name] = np.array(value)
        elif name[:1] == "n" and isinstance(getattr(model, name), int):
            fields[name] = np.array(getattr(model, name))
    for name in dir(model.opt):
        value = getattr(model.opt, name)
        if not name.startswith("_") and isinstance(value, (int, float, np.ndarray)):
            fields[f"opt.{name}"] = np.array(value)
    return fields


@pytest.mark.parametrize("robot", robots.ROBOTS.values(), ids=lambda r: r.gymnasium_id)
def test_every_compiled_field_equals_gymnasium(robot):
    ours = physics_fields(robots.load_model(robot))
    theirs = physics_fields(gymnasium.make(robot.gymnasium_id).unwrapped.model)
    assert len(ours) > 150
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert np.array_equal(value, theirs[name]), name


def test_ant_table():
    model = robots.load_model(robots.ROBOTS["ant", "published"])
    assert model.body_mass.sum() == pytest.approx(0.9108800827, abs=1e-10)
    assert (model.nq, model.nv, model.nu, model.nbody, model.ngeom, model.njnt) == (
        15, 14, 8, 14, 14, 9,
    )  # fmt: skip
    assert (model.actuator_gear[:, 0] == 150).all()
    assert model.actuator_trnid[:, 0].tolist() == [7, 8, 1, 2, 3, 4, 5, 6]
    names = [model.joint(joint).name for joint in model.actuator_trnid[:, 0]]
    assert names == [
        "hip_4", "ankle_4", "hip_1", "ankle_1", "hip_2", "ankle_2", "hip_3", "ankle_3",
    ]  # fmt: skip
    assert np.array_equal(model.actuator_ctrlrange, [[-1.0, 1.0]] * 8)
    assert model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
    assert model.opt.timestep == 0.01
    assert (model.geom_condim == 3).all()
    assert np.array_equal(model.geom_friction, [[1.0, 0.5, 0.5]] * 14)
    assert model.geom_conaffinity.tolist() == [1] + [0] * 13
    assert np.allclose(model.geom_size[1:, 0], [0.25] + [0.08] * 12)
    degrees = np.rad2deg(model.jnt_range[1:])
    assert np.allclose(degrees[0::2], [[-30, 30]] * 4)
    assert np.allclose(degrees[1::2], [[30, 70], [-70, -30], [-70, -30], [30, 70]])


def test_a_changed_model_file_is_refused(monkeypatch, tmp_path):
    folder = tmp_path / "envs" / "mujoco" / "assets"
    folder.mkdir(parents=True)
    (folder / "ant.xml").write_text("<mujoco/>")
    monkeypatch.setattr(gymnasium, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(ValueError, match="SHA-256"):
        robots.load_model(robots.ROBOTS["ant", "published"])
