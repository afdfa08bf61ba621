"""The order of the clips: each clip once per epoch, one permutation per epoch, and an order that never changes."""

import numpy as np

from mindsora.data.order import EpochOrder


def test_epochs_show_every_clip_once():
    order = EpochOrder(3, 20, 8)
    seen = np.concatenate([order(step) for step in range(5)])  # 40 = two epochs
    for epoch in (seen[:20], seen[20:]):
        assert sorted(epoch) == list(range(20))
    assert list(seen[:20]) != list(seen[20:])


def test_the_order_stays_what_it_was():
    """Runs in progress depend on it. The numbers were drawn by the first version of the loop (334b0ce)."""
    order = EpochOrder(3, 20, 8)
    assert np.concatenate([order(step) for step in range(3)]).tolist() == FIRST
    assert order(10**6).tolist() == LATE  # without the earlier epochs


FIRST = [16, 12, 18, 8, 3, 13, 15, 10, 6, 1, 2, 11, 17, 0, 14, 9, 4, 7, 5, 19, 7, 17, 16, 2]
LATE = [1, 6, 7, 10, 11, 19, 2, 4]


def test_a_permutation_is_drawn_once_per_epoch(monkeypatch):
    drawn = []
    permute = EpochOrder._permute
    monkeypatch.setattr(EpochOrder, "_permute", lambda self, epoch: drawn.append(epoch) or permute(self, epoch))
    order = EpochOrder(0, 1000, 7)
    for step in range(300):  # two epochs and a part of the third
        order(step)
    assert drawn == [0, 1, 2]
