"""What every method must do to a network, computed from its formula and from nothing of its code.

An oracle stands beside one method of one network inside a running agent. It sees losses,
gradients and weights before and after every hook, and asserts. A new method needs an entry in
`ORACLES`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from networks.masks import HasMasks
from networks.units import parameter_roles

READS = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)


class CountReads(TorchDispatchMode):
    """Counts what would wait for a device: numbers read off it, shapes that depend on it."""

    def __init__(self):
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.reads += func.overloadpacket in READS
        return func(*args, **(kwargs or {}))


def exact(value):
    return value.detach().double().numpy().copy()


class Oracle:
    """Base: looks and expects nothing.

    Attributes:
        start: Parameters when the agent was built, name -> float64 array.
        step: Gradient step under way, from 1.
        acted: How often something was checked that differs from doing nothing.
        moved: Parameters that the optimizer itself has moved in steps 9 and later, by when all
            methods have intervened.
        counts_on_device: Whether the method looks at the device to know what is due.
    """

    counts_on_device = False

    def __init__(self, update, method, inputs, normalised):
        self.update, self.method, self.network = update, method, update.network
        self.config = method.config if hasattr(method, "config") else None
        self.inputs, self.normalised = inputs, normalised
        self.roles = parameter_roles(self.network)
        self.heads = {id(head) for head in self.network.heads()}
        self.start, self.step, self.acted = self.now(), 1, 0
        self.masks = {
            id(parameter): mask
            for module in self.network.modules()
            if isinstance(module, HasMasks)
            for parameter, mask in module.masked_parameters()
        }
        self.moved = set()
        self._optimizer_step, update.optimizer.step = update.optimizer.step, self._move
        self._wrap("penalty", self._penalty)
        self._wrap("after_backward", self._after_backward)
        self._wrap("after_step", self._after_step)

    def _wrap(self, name, wrapper):
        hook = getattr(self.method, name)

        def original(*arguments):
            events = len(getattr(self.method, "_events", ()))
            with CountReads() as counter:
                result = hook(*arguments)
            if events == len(getattr(self.method, "_events", ())) and not self.counts_on_device:
                assert not counter.reads, f"{name} of step {self.step} reads off the device"
            return result

        setattr(self.method, name, lambda *arguments: wrapper(original, *arguments))

    def _move(self, *arguments):
        before = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        result = self._optimizer_step(*arguments)
        if self.step > 8:
            now = self.network.named_parameters()
            self.moved |= {name for name, p in now if not torch.equal(p, before[name])}
        return result

    def _penalty(self, original, loss):
        self.before_penalty()
        value = original(loss)
        self.penalty(None if value is None else value.item())
        return value

    def _after_backward(self, original):
        original()
        self.backward(self.now(), self.gradients())

    def _after_step(self, original, activations, optimizer):
        before = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        numbers = self.now()
        outputs = self.outputs()
        self.stepped(numbers, activations)
        original(activations, optimizer)
        self.edited(numbers, self.now())
        self.compare(before, outputs)
        self.step += 1

    def now(self):
        return {name: exact(p) for name, p in self.network.named_parameters()}

    def gradients(self):
        return {
            name: np.zeros(p.shape) if p.grad is None else exact(p.grad)
            for name, p in self.network.named_parameters()
        }

    @torch.no_grad()
    def outputs(self, parameters=None):
        """Outputs of the network on fixed inputs, also with other parameters."""
        if parameters is None:
            found = self.network(*self.inputs)
        else:
            found = functional_call(self.network, parameters, self.inputs)
        return found if isinstance(found, tuple) else (found,)

    def of_roles(self, *roles):
        return [
            name
            for name, p in self.network.named_parameters()
            if self.roles[name] in roles and p.requires_grad
        ]

    def matrices(self, heads):
        """Names of the weight matrices, hidden ones alone unless heads are wanted."""
        owners = dict(self.network.named_modules())
        return [
            name
            for name in self.of_roles("weight")
            if heads or id(owners[name.rpartition(".")[0]]) not in self.heads
        ]

    def mask(self, name):
        """True where a weight exists."""
        parameter = dict(self.network.named_parameters())[name]
        found = self.masks.get(id(parameter))
        return np.ones(parameter.shape, bool) if found is None else found.numpy()

    def fan_in(self, name):
        return int(self.mask(name)[0].sum())

    def before_penalty(self):
        """Called before the method's own."""

    def penalty(self, value):
        """Called with what the method returned: a number, or None."""
        assert value is None

    def backward(self, parameters, gradients):
        """Called with complete gradients and the weights they belong to."""

    def stepped(self, parameters, activations):
        """Called after the optimizer and before the method."""

    def edited(self, before, after):
        """Called after the method; by default it leaves all weights alone."""
        for name, value in before.items():
            assert np.array_equal(value, after[name]), f"step {self.step}: {name}"

    def compare(self, before, outputs):
        """Called last, with tensors before the edit and the outputs of then."""

    def done(self, events):
        """Called at the end with the events of this network."""
        assert self.acted


class L2Init(Oracle):
    def penalty(self, value):
        names, now = self.of_roles("weight", "bias"), self.now()
        total = sum(((now[name] - self.start[name]) ** 2).sum() for name in names)
        assert math.isclose(value, 0.1 * total, rel_tol=1e-4, abs_tol=1e-12)
        self.acted += value > 0.0


class WassersteinInit(Oracle):
    def penalty(self, value):
        total, now = 0.0, self.now()
        for name in self.of_roles("weight", "bias"):
            live = self.mask(name)
            total += ((np.sort(now[name][live]) - np.sort(self.start[name][live])) ** 2).sum()
        assert math.isclose(value, 0.1 * total, rel_tol=1e-4, abs_tol=1e-10)
        self.acted += value > 0.0


class Parseval(Oracle):
    def penalty(self, value):
        total, now = 0.0, self.now()
        for name in self.matrices(heads=False):
            squared = np.linalg.svd(now[name], compute_uv=False) ** 2
            total += (64.0 / len(now[name])) ** 2 * ((squared - 2.0) ** 2).sum()
        assert math.isclose(value, 0.1 * total, rel_tol=1e-4)
        self.acted += 1


class Spectral(Oracle):
    def penalty(self, value):
        """The vectors of the power iteration are its own; they must come near the largest."""
        total, now, state = 0.0, self.now(), self.method.state_dict()
        for name in self.matrices(heads=True):
            layer = name.removesuffix(".weight")
            left, right = exact(state["left"][layer]), exact(state["right"][layer])
            found, largest = left @ now[name] @ right, np.linalg.norm(now[name], 2)
            assert 0.8 * largest < found < 1.00001 * largest
            total += (found**2 - 1.0) ** 2
        total += sum((now[name] ** 2).sum() ** 2 for name in self.of_roles("bias"))
        assert math.isclose(value, 0.1 * total, rel_tol=1e-4)
        self.acted += 1


class CChain(Oracle):
    previous = None

    def before_penalty(self):
        stream = torch.Generator()
        stream.set_state(self.method.target.generator.get_state())
        self.coefficient = float(self.method.coefficient.value)
        self.drawn = None
        if self.previous is not None:
            source = self.method.target.inputs
            self.drawn = source.draw(source.minibatch_size, stream)

    def penalty(self, value):
        if self.previous is None:
            assert value is None
            return
        inputs = tuple(part for part in self.drawn if part is not None)
        with torch.no_grad():
            now = self.network(*inputs)
            then = functional_call(self.network, self.previous, inputs)
        now, then = ((o[0] if isinstance(o, tuple) else o).double() for o in (now, then))
        expected = self.coefficient * (now - then).square().mean().item()
        assert math.isclose(value, expected, rel_tol=2e-3, abs_tol=1e-12)
        self.acted += 1

    def backward(self, parameters, gradients):
        self.previous = {n: p.detach().clone() for n, p in self.network.named_parameters()}


class Consolidation(Oracle):
    """What EWC and SI share: anchors at every fifth step."""

    anchor = None

    def edited(self, before, after):
        super().edited(before, after)
        if self.step % 5 == 0:
            self.consolidate(after)
            self.anchor = after

    def pull(self, importance):
        now = self.now()
        return sum(
            (importance[name] * (now[name] - self.anchor[name]) ** 2).sum() for name in importance
        )


class EWC(Consolidation):
    def consolidate(self, after):
        state = self.method.state_dict()["importance"]
        self.importance = {name: exact(value) for name, value in state.items()}
        protected = self.of_roles("weight", "bias", "norm_gain", "norm_offset")
        assert set(self.importance) == set(protected)
        assert all((value >= 0.0).all() for value in self.importance.values())

    def penalty(self, value):
        if self.anchor is None:
            assert value is None
            return
        expected = 0.5 * 1e3 * self.pull(self.importance)
        assert math.isclose(value, expected, rel_tol=1e-4, abs_tol=1e-9)
        self.acted += value > 0.0


class SI(Consolidation):
    importance = None

    def penalty(self, value):
        if self.anchor is None:
            assert value is None
            return
        expected = 1e3 * self.pull(self.importance)
        assert math.isclose(value, expected, rel_tol=1e-3, abs_tol=1e-9)
        self.acted += value > 0.0

    def backward(self, parameters, gradients):
        names = self.of_roles("weight", "bias", "norm_gain", "norm_offset")
        if self.importance is None:
            self.importance = {name: np.zeros_like(self.start[name]) for name in names}
            self.path = {name: np.zeros_like(self.start[name]) for name in names}
            self.origin = self.start
        self.before, self.gradient = parameters, {name: gradients[name] for name in names}
        if self.anchor is not None:
            for name in names:
                pull = 2.0 * 1e3 * self.importance[name]
                self.gradient[name] -= pull * (parameters[name] - self.anchor[name])

    def stepped(self, parameters, activations):
        for name, gradient in self.gradient.items():
            self.path[name] -= gradient * (parameters[name] - self.before[name])

    def consolidate(self, after):
        for name, path in self.path.items():
            moved = (after[name] - self.origin[name]) ** 2
            self.importance[name] = self.importance[name] + np.maximum(path, 0.0) / (moved + 0.1)
            self.path[name] = np.zeros_like(path)
        self.origin = after


class NaP(Oracle):
    def edited(self, before, after):
        for name in self.matrices(heads=False):
            size = np.linalg.norm(self.start[name])
            expected = before[name] * size / np.linalg.norm(before[name])
            np.testing.assert_allclose(after[name], expected, rtol=1e-5, atol=1e-8)
            self.acted += not np.array_equal(before[name], after[name])
        heads = set(self.matrices(heads=True)) - set(self.matrices(heads=False))
        assert all(np.array_equal(before[name], after[name]) for name in heads)

    def compare(self, before, outputs):
        """In front of a LayerNorm the size of a matrix does not matter, up to its epsilon."""
        names = self.matrices(heads=False)
        now = {name: p.detach() for name, p in self.network.named_parameters()}
        scaled = self.outputs({**now, **{name: before[name] for name in names}})
        for left, right in zip(self.outputs(), scaled, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-3)


class WeightClipping(Oracle):
    def edited(self, before, after):
        clipped = {}
        for name in self.matrices(heads=self.config_clips_heads()):
            bound = 0.5 / math.sqrt(self.fan_in(name))
            for each in (name, name.replace(".weight", ".bias")):
                clipped[each] = np.clip(before[each], -bound, bound)
        for name, value in before.items():
            np.testing.assert_allclose(after[name], clipped.get(name, value), rtol=1e-6)
            self.acted += not np.array_equal(value, after[name])

    def config_clips_heads(self):
        from plasticity.methods.weight_clipping import Config

        return Config().clip_heads


class Periodic(Oracle):
    """Acts at every fifth step and leaves everything alone in between."""

    def edited(self, before, after):
        if self.step % 5:
            super().edited(before, after)
            return
        self.intervened(before, after)
        self.acted += 1

    def done(self, events):
        assert [event["gradient_step"] for event in events] == list(range(5, self.step, 5))
        assert self.acted == len(events)


class ShrinkPerturb(Periodic):
    def intervened(self, before, after):
        for name in before:
            drawn = (after[name] - 0.5 * before[name]) / 0.5
            if name in self.matrices(heads=True):
                bound, live = math.sqrt(3.0 / self.fan_in(name)), drawn[self.mask(name)]
                assert not drawn[~self.mask(name)].any()
                assert np.abs(live).max() <= bound * (1.0 + 1e-5)
                assert live.size < 50 or np.isclose(live.std(), bound / math.sqrt(3.0), rtol=0.25)
            elif name in self.of_roles("bias"):
                np.testing.assert_allclose(drawn, 0.0, atol=1e-6)
            else:
                assert np.array_equal(before[name], after[name])


class Fire(Periodic):
    def intervened(self, before, after):
        for name, value in before.items():
            expected = value
            if name in self.matrices(heads=False):
                left, sizes, right = np.linalg.svd(value, full_matrices=False)
                sizes /= np.linalg.norm(sizes)
                for _ in range(20):  # what Newton and Schulz do to a singular value
                    sizes = 1.5 * sizes - 0.5 * sizes**3
                expected = math.sqrt(value.shape[0] / value.shape[1]) * (left * sizes) @ right
                expected *= self.mask(name)
            np.testing.assert_allclose(after[name], expected, atol=1e-6)


class HareTortoise(Periodic):
    slow = None

    def stepped(self, parameters, activations):
        slow = self.start if self.slow is None else self.slow
        self.slow = {name: 0.5 * slow[name] + 0.5 * parameters[name] for name in parameters}

    def intervened(self, before, after):
        followed = self.of_roles("weight", "bias", "norm_gain", "norm_offset")
        for name in before:
            expected = self.slow[name] if name in followed else before[name]
            np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=1e-7)


class Reset(Periodic):
    def intervened(self, before, after):
        assert not self.update.optimizer.state
        for name, value in after.items():
            if name in self.matrices(heads=True):
                bound = math.sqrt(3.0 / self.fan_in(name))
                assert np.abs(value).max() <= bound * (1.0 + 1e-6)
                assert not value[~self.mask(name)].any()
                live = self.mask(name)
                assert (value[live] != before[name][live]).mean() > 0.9
            elif self.roles[name] in ("bias", "log_std"):
                assert not value.any()


class Injection(Oracle):
    """Once, at the fifth step."""

    def edited(self, before, after):
        for name, value in before.items():
            drawn = self.step == 5 and (".fresh." in name or ".frozen." in name)
            if not drawn or name.endswith(".bias"):  # fresh biases are 0, as before
                assert np.array_equal(value, after[name])
                continue
            assert (value != after[name]).any()
            twin = name.replace(".frozen.", ".fresh.")
            assert np.array_equal(after[name], after[twin])
            assert np.abs(after[name]).max() <= math.sqrt(3.0 / value.shape[1]) * (1.0 + 1e-6)
            self.acted += 1

    def compare(self, before, outputs):
        """No output changes by a bit."""
        for left, right in zip(outputs, self.outputs(), strict=True):
            assert torch.equal(left, right)


class Renewal(Oracle):
    """What all recyclers share; subclasses say which units are due.

    Attributes:
        due: Unit-group name -> units expected to be renewed in this step.
        expected: Those of all steps, as (step, group, unit).
    """

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.groups = {group.name: group for group in self.network.unit_groups()}
        self.due, self.expected = {}, []
        self.names = {id(p): name for name, p in self.network.named_parameters()}

    def edited(self, before, after):
        rewritten = {name: np.zeros(value.shape, bool) for name, value in before.items()}
        for name, units in self.due.items():
            self.expected += [(self.step, name, int(unit)) for unit in units]
            layer = self.groups[name].layer
            for parameter in layer.parameters():
                own = self.names[id(parameter)]
                rewritten[own][units] = True
                if own in self.matrices(heads=False):
                    bound = math.sqrt(3.0 / self.fan_in(own)) * (1.0 + 1e-6)
                    assert (np.abs(after[own][units]) <= bound).all()
                    assert not after[own][~self.mask(own)].any()
            self.acted += len(units)
        for name, units in self.due.items():
            for reader in self.groups[name].readers:
                own = self.names[id(reader.layer.weight)]
                rewritten[own][:, units] = True
                assert not after[own][:, units].any()
        for name, value in before.items():
            kept = ~rewritten[name]
            assert np.array_equal(value[kept], after[name][kept]), f"step {self.step}: {name}"
            fresh = rewritten[name] & (after[name] != 0.0)
            assert (value[fresh] != after[name][fresh]).all() or "norm" in name

    def compare(self, before, outputs):
        """Renewing changes the function by removing units, and by nothing else."""
        if self.normalised:
            return
        removed = {name: value.clone() for name, value in before.items()}
        for name, units in self.due.items():
            for reader in self.groups[name].readers:
                removed[self.names[id(reader.layer.weight)]][:, units] = 0.0
        for left, right in zip(self.outputs(), self.outputs(removed), strict=True):
            assert torch.equal(left, right)

    def done(self, events):
        super().done(events)
        found = [(event["gradient_step"], event["group"], event["unit"]) for event in events]
        assert sorted(found) == sorted(self.expected)


class ContinualBackprop(Renewal):
    """Rate .05, maturity 3, decay .99, contribution."""

    def stepped(self, parameters, activations):
        if not hasattr(self, "utility"):
            sizes = {name: group.num_units for name, group in self.groups.items()}
            self.utility = {name: np.zeros(size) for name, size in sizes.items()}
            self.age = {name: np.zeros(size, int) for name, size in sizes.items()}
            self.owed = dict.fromkeys(sizes, 0.0)
        self.due = {}
        for name, group in self.groups.items():
            outgoing = sum(np.abs(exact(r.layer.weight)).sum(0) for r in group.readers)
            now = outgoing * np.abs(exact(activations[name])).mean(0)
            self.utility[name] = 0.99 * self.utility[name] + 0.01 * now
            self.age[name] += 1
            mature = self.age[name] > 3
            self.owed[name] += 0.05 * mature.sum()
            count = math.floor(self.owed[name] + 1e-9)
            self.owed[name] -= count
            if not count:
                continue
            key = np.where(mature, self.utility[name] / (1.0 - 0.99 ** self.age[name]), np.inf)
            units = np.argsort(key, kind="stable")[:count]
            self.due[name] = units
            self.utility[name][units] = self.age[name][units] = 0


class ReDo(Renewal):
    """Threshold .7 every 5 steps, scores over the last two minibatches of 16."""

    def stepped(self, parameters, activations):
        self.due = {}
        self.seen = [*getattr(self, "seen", []), {n: exact(h) for n, h in activations.items()}]
        if self.step % 5:
            return
        for name in self.groups:
            size = np.abs(np.concatenate([seen[name] for seen in self.seen[-2:]])).mean(0)
            units = np.flatnonzero(size / (size.mean() + 1e-9) <= 0.7)
            if len(units):
                self.due[name] = units


class ReGraMa(Renewal):
    """Threshold .7 every 5 steps, over the gradients since the last check."""

    def backward(self, parameters, gradients):
        self.seen = [*getattr(self, "seen", []), gradients]

    def stepped(self, parameters, activations):
        self.due = {}
        if self.step % 5:
            return
        for name, group in self.groups.items():
            own = self.names[id(group.layer.linear.weight)]
            rows = sum(np.abs(seen[own]).sum(1) for seen in self.seen)
            units = np.flatnonzero(rows / rows.mean() <= 0.7)
            if len(units):
                self.due[name] = units
        self.seen = []


class SNR(Renewal):
    """Every unit that is silent on a whole minibatch."""

    # It looks when a silence may have become too long: with these settings at every step.
    counts_on_device = True

    def stepped(self, parameters, activations):
        silent = {name: (exact(h) == 0.0).all(0) for name, h in activations.items()}
        self.due = {name: np.flatnonzero(units) for name, units in silent.items() if units.any()}


ORACLES = {
    "c_chain": CChain,
    "continual_backprop": ContinualBackprop,
    "ewc": EWC,
    "fire": Fire,
    "hare_tortoise": HareTortoise,
    "injection": Injection,
    "l2_init": L2Init,
    "nap": NaP,
    "parseval": Parseval,
    "redo": ReDo,
    "regrama": ReGraMa,
    "reset": Reset,
    "shrink_perturb": ShrinkPerturb,
    "si": SI,
    "snr": SNR,
    "spectral": Spectral,
    "wasserstein_init": WassersteinInit,
    "weight_clipping": WeightClipping,
}
