"""The loop: chunks of a batch under compile."""
from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from w2snb.core.random import generator, seeded
from w2snb.data.images import digits
from w2snb.data.sources import DATASETS
from w2snb.models.build import build_model
from w2snb.training import loop
from w2snb.training.loop import train
from w2snb.training.objectives import LabelObjective
from w2snb.training.recipes import RECIPES

S, STATS = digits(), DATASETS["digits"]
X, Y = torch.tensor(S.x), torch.tensor(S.y)


def new_net(name="digits_cnn"):
    with seeded(0, "student"):
        return build_model(name, 10)


@pytest.mark.quick
@pytest.mark.parametrize("images, chunk, sizes", [(256, 16, {16}), (256, None, {64}), (200, 16, {16, 8})])
def test_a_network_is_compiled_once_for_each_size_of_a_chunk(images, chunk, sizes, monkeypatch):
    """However many chunks a batch has, and whichever of them the running statistics follow."""
    counter, recipe = CompileCounter(), replace(RECIPES["digits"], epochs=3, bn_chunk=chunk)
    monkeypatch.setattr(loop, "compiled", lambda model, device: torch.compile(model, backend=counter, dynamic=False))
    torch._dynamo.reset()
    fits = [train(new_net(), X[:images], LabelObjective(Y), recipe, STATS, 0, compile=c) for c in (True, False)]
    assert counter.frame_count == len(sizes)
    assert fits[0].history == fits[1].history
    assert all(torch.equal(a, b) for a, b in zip(*(f.model.state_dict().values() for f in fits)))


@pytest.mark.quick
@pytest.mark.parametrize("last", [False, True])
def test_running_statistics_of_chunks(last):
    """They move by the momentum towards the first chunk, at the end of an epoch towards the mean of all."""
    norm, g = torch.nn.BatchNorm1d(5, momentum=0.3), generator(0, "order")
    norm.running_mean.normal_(generator=g)
    before, chunks = norm.running_mean.clone(), torch.randn(4, 8, 5, generator=g)
    for k, chunk in enumerate(chunks):
        with loop._chunk([norm], k, len(chunks), last):
            norm(chunk)
    towards = chunks.mean((0, 1)) if last else chunks[0].mean(0)
    torch.testing.assert_close(norm.running_mean, 0.7 * before + 0.3 * towards)
    assert norm.momentum == 0.3
