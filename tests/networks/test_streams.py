"""Streams depend on the seed and their own name, on nothing else."""

import torch

from networks.streams import Streams


def test_a_stream_does_not_depend_on_other_streams():
    alone = torch.rand(5, generator=Streams(3).torch("noise"))
    streams = Streams(3)
    torch.rand(100, generator=streams.torch("other"))
    assert torch.equal(alone, torch.rand(5, generator=streams.torch("noise")))


def test_names_prefixes_and_seeds_separate_streams():
    draws = {
        tuple(torch.rand(3, generator=generator).tolist())
        for generator in (
            Streams(0).torch("a"),
            Streams(0).torch("b"),
            Streams(1).torch("a"),
            Streams(0).child("c").torch("a"),
        )
    }
    assert len(draws) == 4


def test_child_is_a_path():
    assert (
        Streams(0).child("policy").sequence("x").spawn_key
        == Streams(0, "policy/").sequence("x").spawn_key
    )
    first = Streams(5).numpy("n").random(4)
    assert (first == Streams(5).numpy("n").random(4)).all()
