"""The rules, case by case: what torch warns of under torch.cuda.set_sync_debug_mode, and what it
does not.

The first eighteen are those of torch's own test of that mode (`test_sync_warning` in
test/test_torch.py, in a copy of unknown version); the others are ours, read off the same sources as
the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch.nn.functional import one_hot, scaled_dot_product_attention


class CaseInputs(NamedTuple):
    """What a case works on; made before anything is counted."""

    x: torch.Tensor  # float [4], as all that follow on the device but for the last two
    single: torch.Tensor  # float [1]
    scalar: torch.Tensor  # float []
    square: torch.Tensor  # float [3, 3], symmetric and positive
    long: torch.Tensor  # float [64]
    places: torch.Tensor  # int64 [3]
    mask: torch.Tensor  # bool [4]
    repeats: torch.Tensor  # int64 [1]
    counts: torch.Tensor  # int64 [4]
    host_places: torch.Tensor
    host_mask: torch.Tensor


def case_inputs() -> CaseInputs:
    """All of it on the device that "cuda" is now, the real one or the shadow."""
    places, mask = torch.tensor([0, 2, 3]), torch.tensor([True, False, True, False])
    return CaseInputs(
        x=torch.ones(4).to("cuda"),
        single=torch.ones(1).to("cuda"),
        scalar=torch.tensor(0.5).to("cuda"),
        square=(torch.eye(3) + 0.1).to("cuda"),
        long=torch.arange(64.0).to("cuda"),
        places=places.to("cuda"),
        mask=mask.to("cuda"),
        repeats=torch.full((1,), 2).to("cuda"),
        counts=torch.ones(4, dtype=torch.int64).to("cuda"),
        host_places=places,
        host_mask=mask,
    )


Run = Callable[[CaseInputs], object]


class Case(NamedTuple):
    """One call, and whether the host waits in it."""

    name: str
    waits: bool
    run: Run
    torchs: bool = False  # from torch's own test
    watched: bool = True  # by torch's mode, which leaves explicit synchronisation alone


def _put(target: torch.Tensor, index: torch.Tensor, value: torch.Tensor | float) -> torch.Tensor:
    target[index] = value
    return target


def _attention(x: torch.Tensor) -> torch.Tensor:
    return scaled_dot_product_attention(x, x, x)


TORCHS_WAITS: dict[str, Run] = {
    "put a device value by mask": lambda g: _put(g.x, g.mask, g.scalar),
    "put by places on the host": lambda g: _put(g.x, g.host_places, g.scalar),
    "get by mask": lambda g: g.x[g.mask],
    "get by places on the host": lambda g: g.x[g.host_places],
    "nonzero": lambda g: g.x.nonzero(),
    "a condition": lambda g: 1 if g.scalar else 2,
    "one_hot without classes": lambda g: one_hot(g.places),
    "repeat_interleave without size": lambda g: torch.repeat_interleave(g.x, g.repeats),
}
TORCHS_FREE: dict[str, Run] = {
    "put a number by mask": lambda g: _put(g.x, g.mask, 1.0),
    "put by mask on the host": lambda g: _put(g.x, g.host_mask, g.scalar),
    "put by places": lambda g: _put(g.x, g.places, g.scalar),
    "get by mask on the host": lambda g: g.x[g.host_mask],
    "get by places": lambda g: g.x[g.places],
    "one_hot with classes": lambda g: one_hot(g.places, num_classes=4),
    "randperm": lambda _: torch.randperm(20000, device="cuda"),
    "repeat_interleave by a number": lambda g: torch.repeat_interleave(g.x, 2, output_size=8),
    "repeat_interleave with size": lambda g: torch.repeat_interleave(g.x, g.repeats, output_size=8),
    "any": lambda g: torch.any(g.scalar),
}
WAITS: dict[str, Run] = {
    "item": lambda g: g.single.item(),
    "item of an index": lambda g: g.x[1].item(),
    "if": lambda g: bool(g.single > 0),
    "float()": lambda g: float(g.single),
    "mask": lambda g: g.x[g.x > 0],
    "put by mask from the device": lambda g: _put(g.x, g.x > 0, g.single),
    "masked_select": lambda g: torch.masked_select(g.x, g.mask),
    "unique": lambda g: torch.unique(g.x),
    "repeat_interleave": lambda g: torch.repeat_interleave(g.x, g.counts),
    "bincount": lambda g: torch.bincount(g.places),
    "to the host": lambda g: g.x.cpu(),
    "from pageable memory": lambda _: torch.ones(4).to("cuda"),
    "tensor from a list": lambda _: torch.tensor([1.0, 2.0], device="cuda"),
    "index by a host tensor": lambda g: g.x[torch.tensor([0, 1])],
    "host table at a device scalar": lambda g: torch.arange(4.0)[g.places[1]],
    "assign a host scalar by index": lambda g: _put(g.x, g.places, torch.tensor(5.0)),
    "equal": lambda g: torch.equal(g.x, g.x + 0),
    "tolist": lambda g: g.x.tolist(),
    "linspace between device scalars": lambda g: torch.linspace(
        g.scalar, g.scalar, 3, device="cuda"
    ),
    "masked_fill by a device scalar": lambda g: g.x.masked_fill(g.mask, g.scalar),
    "tensor of device scalars": lambda g: torch.tensor([g.scalar, g.scalar]),
    "format": lambda g: f"{g.scalar:.2f}",
    "histc over the data's own range": lambda g: torch.histc(g.x, 4),
    "isin among many": lambda g: torch.isin(g.x, g.long),
    "multinomial": lambda g: torch.multinomial(g.x, 2),
    "multinomial, one draw": lambda g: torch.multinomial(g.x, 1, replacement=True),
    "normal with a tensor of deviations": lambda g: torch.normal(0.0, g.x),
    "inv": lambda g: torch.linalg.inv(g.square),
    "solve": lambda g: torch.linalg.solve(g.square, g.square),
    "cholesky": lambda g: torch.linalg.cholesky(g.square),
    "cholesky_ex with its check": lambda g: torch.linalg.cholesky_ex(g.square, check_errors=True),
    "cholesky_inverse": lambda g: torch.cholesky_inverse(g.square),
    "lu_factor": lambda g: torch.linalg.lu_factor(g.square),
    "eigh": lambda g: torch.linalg.eigh(g.square),
    "eig": lambda g: torch.linalg.eig(g.square),
    "svd": lambda g: torch.linalg.svd(g.square),
    "norm of order 2": lambda g: torch.linalg.norm(g.square, 2),
    "pinv": lambda g: torch.linalg.pinv(g.square),
    "lstsq": lambda g: torch.linalg.lstsq(g.square, g.square),
    "matrix_exp": lambda g: torch.linalg.matrix_exp(g.square),
}
UNWATCHED: dict[str, Run] = {
    "synchronize": lambda _: torch.cuda.synchronize(0),
    "event": lambda _: torch.cuda.Event().synchronize(),
}
FREE: dict[str, Run] = {
    "arithmetic": lambda g: g.x * 2 + g.x,
    "matrix product": lambda g: g.square @ g.square,
    "index by numbers": lambda g: g.x[1:3],
    "index by a device tensor": lambda g: g.x[torch.arange(2, device="cuda")],
    "where": lambda g: torch.where(g.mask, g.x, g.x),
    "number by mask": lambda g: _put(g.x, g.x > 0, 1.0),
    "masked_fill by a number": lambda g: g.x.masked_fill(g.mask, 1.0),
    "pinned, non-blocking": lambda _: torch.ones(4).pin_memory().to("cuda", non_blocking=True),
    "to the host, non-blocking": lambda g: g.x.to("cpu", non_blocking=True),
    "repeat_interleave with its size": lambda g: torch.repeat_interleave(
        g.x, g.counts, output_size=4
    ),
    "random numbers": lambda _: torch.randn(4, device="cuda", generator=torch.Generator("cuda")),
    "sort": lambda g: torch.sort(g.x),
    "empty copy": lambda _: torch.zeros(0, device="cuda").cpu(),
    "softmax": lambda g: torch.softmax(g.x, 0),
    "attention": lambda g: _attention(g.long.reshape(1, 2, 4, 8)),
    "histc over a given range": lambda g: torch.histc(g.x, 4, 0.0, 2.0),
    "isin among few": lambda g: torch.isin(g.long, g.x),
    "isin of distinct numbers": lambda g: torch.isin(g.long, g.long, assume_unique=True),
    "isin of a number": lambda g: torch.isin(g.x, 1.0),
    "multinomial with replacement": lambda g: torch.multinomial(g.x, 3, replacement=True),
    "quantile": lambda g: torch.quantile(g.x, 0.5),
    "inv_ex": lambda g: torch.linalg.inv_ex(g.square),
    "cholesky_ex": lambda g: torch.linalg.cholesky_ex(g.square),
    "qr": lambda g: torch.linalg.qr(g.square),
    "det": lambda g: torch.linalg.det(g.square),
    "solve_triangular": lambda g: torch.linalg.solve_triangular(g.square, g.square, upper=True),
}


def _cases() -> Iterator[Case]:
    yield from (Case(name, True, run, torchs=True) for name, run in TORCHS_WAITS.items())
    yield from (Case(name, False, run, torchs=True) for name, run in TORCHS_FREE.items())
    yield from (Case(name, True, run) for name, run in WAITS.items())
    yield from (Case(name, True, run, watched=False) for name, run in UNWATCHED.items())
    yield from (Case(name, False, run) for name, run in FREE.items())


CASES = tuple(_cases())
