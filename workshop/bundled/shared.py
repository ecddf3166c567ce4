"""What the training scripts share: Muon, an average of weights, and a second process that adds
gradients.

The helper takes the newest weights, computes a gradient and leaves it in shared memory; the main
process averages it into its own when one is there, and never waits. So either may be paused
(SIGSTOP) or slowed down at any time.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

Gradient = Callable[[], float]
"""Computes one batch's loss, calls backward, and gives the loss."""
OLDEST = 6  # steps: a gradient older than this is thrown away


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by five Newton-Schulz steps (Jordan 2024), for weights of two or
    more dimensions."""

    def __init__(
        self, params: list[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                average = self.state[p].setdefault("average", torch.zeros_like(p))
                average.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(average, group["momentum"]).flatten(1)).view_as(p)
                p.mul_(1 - group["lr"] * group["decay"]).add_(update, alpha=-group["lr"])


def orthogonal(g: Tensor) -> Tensor:
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    tall = x.size(0) > x.size(1)
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        y = x @ x.T
        x = a * x + (b * y + c * (y @ y)) @ x
    x = x.T if tall else x
    return x.float() * 0.2 * max(g.shape) ** 0.5  # the root mean square of an Adam step


def optimizers(modules: list[nn.Module], lr: float) -> list[torch.optim.Optimizer]:
    """Muon for matrices and convolutions, Adam for embeddings, norms and biases."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for module in modules:
        for name, p in module.named_parameters():
            if p.requires_grad:
                is_matrix = p.ndim >= 2 and "embedding.weight" not in name and min(p.shape[:2]) > 4
                (matrices if is_matrix else vectors).append(p)
    return [Muon(matrices, lr, decay=0.01), torch.optim.Adam(vectors, lr, betas=(0.9, 0.98))]


class Average:
    """An exponential moving average of weights."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.count = decay, 0
        self.weights = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.count += 1
        share = 1 - min(self.decay, self.count / (self.count + 10))
        for k, v in module.state_dict().items():
            if v.is_floating_point():
                self.weights[k].lerp_(v, share)


class Exchange:
    """Weights one way and gradients the other, in one file of shared memory."""

    def __init__(self, name: str, params: list[nn.Parameter], main: bool) -> None:
        self.params = [p for p in params if p.requires_grad]
        count = sum(p.numel() for p in self.params)
        path = Path("/dev/shm") / f"halftime-{name}"
        if main:
            path.write_bytes(b"")
            os.truncate(path, 4 * (2 * count + 4))
        while not path.exists() or path.stat().st_size != 4 * (2 * count + 4):
            time.sleep(1)
        store = torch.from_numpy(np.memmap(path, np.float32, "r+"))
        self.flags, self.weights, self.gradients = (
            store[:4],
            store[4 : 4 + count],
            store[4 + count :],
        )
        self.received = 0
        self.main = main
        if main:
            self.publish()

    def pieces(self, flat: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        start = 0
        for p in self.params:
            yield p, flat[start : start + p.numel()].view_as(p)
            start += p.numel()

    @torch.no_grad()
    def publish(self) -> None:
        for p, piece in self.pieces(self.weights):
            piece.copy_(p)
        self.flags[2] += 1

    @torch.no_grad()
    def receive(self) -> None:
        """Average a waiting gradient into ours, if there is one."""
        if self.flags[0] != 1:
            return
        if self.flags[2] - self.flags[3] <= OLDEST:
            for p, piece in self.pieces(self.gradients):
                if p.grad is not None:
                    p.grad.lerp_(piece, 0.5)
            self.received += 1
        self.flags[0] = 0

    def help(self, gradient: Gradient) -> None:
        """The helper's whole life; it ends when the main process says so or has been replaced."""
        while self.flags[1] == 0:
            version = float(self.flags[2])
            with torch.no_grad():
                for p, piece in self.pieces(self.weights):
                    p.copy_(piece)
                    p.grad = None
            gradient()
            while self.flags[0] == 1 and self.flags[1] == 0:
                time.sleep(0.01)
            with torch.no_grad():
                for p, piece in self.pieces(self.gradients):
                    piece.zero_() if p.grad is None else piece.copy_(p.grad)
            self.flags[3] = version
            self.flags[0] = 1

    def finish(self) -> None:
        self.flags[1] = 1


def rate(progress: float, warm: float = 0.01, hold: float = 0.5) -> float:
    """Linear warm-up, then level, then linear to zero, over `progress` from 0 to 1."""
    return min(1.0, progress / warm + 0.02, max(0.0, (1 - progress) / (1 - hold)))


def log(path: Path, **row: float) -> None:
    with path.open("a") as out:
        out.write(json.dumps(row) + "\n")


def save(state: object, path: Path) -> None:
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)
