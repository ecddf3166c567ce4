"""The rules, case by case: what torch warns of under set_sync_debug_mode on a GPU, here without one.

The first tables are the kinds of case that torch's own test of that mode has (`test_sync_warning` in test_cuda.py).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from halftime.audit.mode import ShadowDevice

Case = Callable[[], object]


def on_gpu(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, device="cuda")


def put(target: torch.Tensor, index: torch.Tensor, value: torch.Tensor | float) -> torch.Tensor:
    target[index] = value
    return target


def places(device: str = "cuda") -> torch.Tensor:
    return torch.tensor([0, 2, 3]).to(device)


def mask(device: str = "cuda") -> torch.Tensor:
    return torch.tensor([True, False, True, False]).to(device)


# What torch's own test expects of its mode, as (waits, does not); made outside of what is counted.
TORCHS_WAITS: dict[str, Case] = {
    "put a device value by mask": lambda: put(on_gpu(4), GPU["mask"], on_gpu(1)),
    "put by places on the host": lambda: put(on_gpu(4), places("cpu"), on_gpu(1)),
    "get by mask": lambda: on_gpu(4)[GPU["mask"]],
    "get by places on the host": lambda: on_gpu(4)[places("cpu")],
    "nonzero": lambda: on_gpu(4).nonzero(),
    "a condition": lambda: 1 if on_gpu(1) else 2,
    "one_hot without classes": lambda: torch.nn.functional.one_hot(GPU["places"]),
    "repeat_interleave without size": lambda: torch.repeat_interleave(on_gpu(4), GPU["repeats"]),
}
TORCHS_FREE: dict[str, Case] = {
    "put a number by mask": lambda: put(on_gpu(4), GPU["mask"], 1.0),
    "put by mask on the host": lambda: put(on_gpu(4), mask("cpu"), on_gpu(1)),
    "put by places": lambda: put(on_gpu(4), GPU["places"], on_gpu(1)),
    "get by places": lambda: on_gpu(4)[GPU["places"]],
    "one_hot with classes": lambda: torch.nn.functional.one_hot(GPU["places"], num_classes=4),
    "randperm": lambda: torch.randperm(20000, device="cuda"),
    "repeat_interleave by a number": lambda: torch.repeat_interleave(on_gpu(4), 2, output_size=8),
    "repeat_interleave with size": lambda: torch.repeat_interleave(on_gpu(4), GPU["repeats"], output_size=8),
    "any": lambda: torch.any(on_gpu(1)),
}
GPU: dict[str, torch.Tensor] = {}


@pytest.mark.parametrize("name", [*TORCHS_WAITS, *TORCHS_FREE])
def test_torchs_own_cases(name: str) -> None:
    with ShadowDevice() as device:
        device.sites.recording = False
        GPU.update(mask=mask(), places=places(), repeats=torch.full((1,), 2).to("cuda"))
        device.sites.recording = True
        {**TORCHS_WAITS, **TORCHS_FREE}[name]()
        waited = bool(device.sites.as_records())
        GPU.clear()
    assert waited == (name in TORCHS_WAITS)


WAITS: dict[str, Case] = {
    "item": lambda: on_gpu(1).item(),
    "item of an index": lambda: torch.arange(4, device="cuda")[1].item(),
    "if": lambda: bool(on_gpu(1) > 0),
    "float()": lambda: float(on_gpu(1)),
    "nonzero": lambda: torch.nonzero(on_gpu(4)),
    "mask": lambda: on_gpu(4)[on_gpu(4) > 0],
    "put by mask from the device": lambda: on_gpu(4).__setitem__(on_gpu(4) > 0, on_gpu(1)),
    "masked_select": lambda: torch.masked_select(on_gpu(4), on_gpu(4) > 0),
    "unique": lambda: torch.unique(on_gpu(4)),
    "repeat_interleave": lambda: torch.repeat_interleave(on_gpu(4), torch.ones(4, dtype=torch.long, device="cuda")),
    "bincount": lambda: torch.bincount(torch.zeros(4, dtype=torch.long, device="cuda")),
    "to the host": lambda: on_gpu(4).cpu(),
    "from pageable memory": lambda: torch.ones(4).to("cuda"),
    "tensor from a list": lambda: torch.tensor([1.0, 2.0], device="cuda"),
    "index by a host tensor": lambda: on_gpu(4)[torch.tensor([0, 1])],
    "host table at a device scalar": lambda: torch.arange(4.0)[torch.tensor(2, device="cuda")],
    "assign a host scalar by index": lambda: on_gpu(4).__setitem__(torch.tensor([0], device="cuda"), torch.tensor(5.0)),
    "equal": lambda: torch.equal(on_gpu(4), on_gpu(4)),
    "tolist": lambda: on_gpu(4).tolist(),
    "synchronize": lambda: torch.cuda.synchronize(0),
    "event": lambda: torch.cuda.Event().synchronize(),
    "linspace between device scalars": lambda: torch.linspace(on_gpu(1)[0], on_gpu(1)[0], 3, device="cuda"),
    "masked_fill by a device scalar": lambda: on_gpu(4).masked_fill(on_gpu(4) > 0, on_gpu(1)[0]),
    "tensor of device scalars": lambda: torch.tensor([on_gpu(1)[0], on_gpu(1)[0]]),
    "format": lambda: f"{on_gpu(1)[0]:.2f}",
}
FREE: dict[str, Case] = {
    "arithmetic": lambda: on_gpu(4) * 2 + on_gpu(4),
    "matrix product": lambda: on_gpu(2, 2) @ on_gpu(2, 2),
    "index by numbers": lambda: on_gpu(4)[1:3],
    "index by a device tensor": lambda: on_gpu(4)[torch.arange(2, device="cuda")],
    "where": lambda: torch.where(on_gpu(4) > 0, on_gpu(4), on_gpu(4)),
    "number by mask": lambda: on_gpu(4).__setitem__(on_gpu(4) > 0, 1.0),
    "masked_fill by a number": lambda: on_gpu(4).masked_fill(on_gpu(4) > 0, 1.0),
    "pinned, non-blocking": lambda: torch.ones(4).pin_memory().to("cuda", non_blocking=True),
    "to the host, non-blocking": lambda: on_gpu(4).to("cpu", non_blocking=True),
    "repeat_interleave with its size": lambda: torch.repeat_interleave(
        on_gpu(4), torch.ones(4, dtype=torch.long, device="cuda"), output_size=4
    ),
    "random numbers": lambda: torch.randn(4, device="cuda", generator=torch.Generator("cuda")),
    "sort": lambda: torch.sort(on_gpu(4)),
    "empty copy": lambda: on_gpu(0).cpu(),
    "softmax": lambda: torch.softmax(on_gpu(4), 0),
    "attention": lambda: torch.nn.functional.scaled_dot_product_attention(*[on_gpu(1, 2, 4, 8)] * 3),
}


def waits(case: Case) -> int:
    with ShadowDevice() as device:
        case()
        return sum(site.count for site in device.sites.as_records())


@pytest.mark.parametrize("name", WAITS)
def test_waits(name: str) -> None:
    assert waits(WAITS[name]) >= 1


@pytest.mark.parametrize("name", FREE)
def test_does_not_wait(name: str) -> None:
    assert waits(FREE[name]) == 0


@pytest.mark.gpu
@pytest.mark.parametrize("name", [*WAITS, *FREE])
def test_the_rules_agree_with_torchs_own_mode_on_a_gpu(name: str) -> None:
    import warnings

    case = {**WAITS, **FREE}[name]
    if "synchronize" in name or name == "event":
        pytest.skip("torch's mode does not watch explicit synchronisation")
    torch.zeros(1, device="cuda")
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            case()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    said = any("synchronizing CUDA operation" in str(warning.message) for warning in caught)
    assert said == (name in WAITS)


def test_what_a_device_would_refuse_is_refused() -> None:
    with ShadowDevice(), pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        _ = on_gpu(4) + torch.ones(4)
    with ShadowDevice(), pytest.raises(RuntimeError, match="'cuda' device type for generator but found 'cpu'"):
        torch.randn(4, device="cuda", generator=torch.Generator("cpu"))
    with ShadowDevice(), pytest.raises(TypeError, match="can't convert cuda:0"):
        on_gpu(4).numpy()


def test_values_are_real() -> None:
    with ShadowDevice():
        table = torch.arange(6.0, device="cuda").reshape(2, 3)
        assert table.device == torch.device("cuda", 0)
        assert table.sum().item() == 15
        assert table.t_().shape == (3, 2)
        assert (table[table > 2]).tolist() == [3.0, 4.0, 5.0]
