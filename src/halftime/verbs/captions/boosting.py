"""Boosted trees: grown by scikit-learn, written as plain arrays, and read with numpy alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from halftime.base.errors import HalftimeError
from halftime.records.captions import Trees
from halftime.verbs.captions.extra import need
from halftime.verbs.captions.features import Array

ROUNDS, DEPTH, LEAVES = 80, 5, 12
_ROWS = 256  # at a time, which fit into a processor's cache


class CompiledTrees:
    """Trees as arrays: converting tuples would take longer than a decision."""

    def __init__(self, trees: Trees) -> None:
        self.roots = np.asarray(trees.roots, dtype=np.intp)
        self.feature = np.asarray(trees.feature, dtype=np.intp)
        self.split = np.asarray(trees.split)
        self.children = np.asarray([trees.right, trees.left], dtype=np.intp)
        self.value = np.asarray(trees.value)
        self.depth, self.slope = trees.depth, trees.slope

    def logits(self, values: Array) -> Array:
        """Requests x features -> each one's sum of leaves, without `slope`."""
        starts = range(0, len(values), _ROWS)
        return np.concatenate([self._logits(values[start : start + _ROWS]) for start in starts])

    def _logits(self, values: Array) -> Array:
        rows = np.arange(len(values))[:, None]
        node = np.broadcast_to(self.roots, (len(values), len(self.roots)))
        for _ in range(self.depth):
            low = values[rows, self.feature[node]] <= self.split[node]
            node = self.children[low.astype(np.intp), node]
        return np.asarray(self.value[node].sum(axis=1))


def leaves(trees: Trees, values: Array) -> Array:
    """Each request's sum of leaves."""
    return CompiledTrees(trees).logits(values)


def boosted(values: Array, acceptable: Array, seed: int, slope: float = 1.0) -> Trees:
    """Grow them.

    scikit-learn gives its histogram trees' nodes under a private name alone; what was read there is
    compared with its own predictions, and a difference is an error rather than another router.
    """
    ensemble = need("sklearn.ensemble")
    model = ensemble.HistGradientBoostingClassifier(
        max_iter=ROUNDS,
        learning_rate=0.08,
        max_leaf_nodes=LEAVES,
        max_depth=DEPTH,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    ).fit(values, acceptable)
    trees = _trees([stage[0].nodes for stage in model._predictors], slope)
    ours = leaves(trees, values[:200]) + float(np.ravel(model._baseline_prediction)[0])
    if not np.allclose(ours, model.decision_function(values[:200]), atol=1e-6):
        raise HalftimeError(
            "this version of scikit-learn lays out its boosted trees in a way that halftime cannot "
            "read. Install the version in constraints.txt."
        )
    return trees


def _trees(stages: list[NDArray[np.void]], slope: float) -> Trees:
    starts = np.cumsum([0, *(len(nodes) for nodes in stages)])[:-1]
    nodes = np.concatenate(stages)
    start = np.repeat(starts, [len(stage) for stage in stages])
    leaf = nodes["is_leaf"].astype(bool)
    own = np.arange(len(nodes))
    return Trees(
        roots=_integers(starts),
        feature=_integers(np.where(leaf, 0, nodes["feature_idx"])),
        split=tuple(float(v) for v in np.where(leaf, 0.0, nodes["num_threshold"])),
        left=_integers(np.where(leaf, own, nodes["left"] + start)),
        right=_integers(np.where(leaf, own, nodes["right"] + start)),
        value=tuple(float(v) for v in np.where(leaf, nodes["value"], 0.0)),
        depth=int(nodes["depth"].max()),
        slope=slope,
    )


def _integers(values: NDArray[np.integer[Any]]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)
