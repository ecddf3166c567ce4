"""What the CPU fixes save in components of true size: SDXL's VAE decoder and SD 1.5's UNet, 256 px.

Regime: random weights of the real shapes (times do not depend on them), one thread unless
OMP_NUM_THREADS says otherwise; the UNet evaluates a batch of two, as guidance has it. Each stack
takes turns with diffusers' fp32 eager module, pair by pair, since not all of them fit into memory
together; medians of paired ratios with 95 % intervals. `snr_db` is that of the stack's result
against the fp32 one. Conversion and compilation stand beside, not in the timing. Ceiling: the FLOPs
(`gflop`) over the core's peak in that precision.

    python -m benchmarks.fix.components --out benchmarks/results/fix_components.json

Rows that the file holds already are kept; `--only` measures some of them again.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import signal
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.frame import Frame
from halftime.base.stats import median, paired_ratio
from halftime.fix import onnx_runtime
from halftime.fix.compilation import DEFAULTS, compile_with
from halftime.fix.layout import _in_channels_last
from halftime.fix.openvino import converter
from halftime.fix.precision import in_dtype
from halftime.fix.runtime import Converted
from halftime.fix.upsampling import VAE_FOLDED_UPSAMPLE

Call = Callable[..., object]
CPU = torch.device("cpu")


def vae() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The decoder of stabilityai/stable-diffusion-xl-base-1.0's VAE."""
    model = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=1024,
    )
    return model.decoder.eval(), (torch.randn(1, 4, 32, 32),)


def unet() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """stable-diffusion-v1-5's UNet; its configuration is the class's default but for these."""
    model = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    return model.eval(), (torch.randn(2, 4, 32, 32), torch.tensor(500), torch.randn(2, 77, 768))


@contextlib.contextmanager
def eager_bf16(module: nn.Module) -> Iterator[Call]:
    with _in_channels_last([module]), in_dtype(module, "forward", torch.bfloat16):
        yield module.forward


@contextlib.contextmanager
def inductor(module: nn.Module) -> Iterator[Call]:
    with eager_bf16(module) as forward:
        yield compile_with(forward, DEFAULTS, CPU)


@contextlib.contextmanager
def openvino(module: nn.Module, precision: str) -> Iterator[Call]:
    yield Converted(module, module.forward, converter({"precision": precision}))  # type: ignore[arg-type]


@contextlib.contextmanager
def onnx(module: nn.Module) -> Iterator[Call]:
    yield Converted(module, module.forward, onnx_runtime.convert)


@contextlib.contextmanager
def folded(
    module: nn.Module, inner: Callable[..., contextlib.AbstractContextManager[Call]]
) -> Iterator[Call]:
    holder = SimpleNamespace(components={"vae": _Vae(module)})
    with VAE_FOLDED_UPSAMPLE.apply(holder, {}), inner(module) as call:  # type: ignore[arg-type]
        yield call


class _Vae(nn.Module):
    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def decode(self, z: Tensor) -> object:
        return self.decoder(z)


STACKS: dict[str, Callable[[nn.Module], contextlib.AbstractContextManager[Call]]] = {
    "torch bf16, channels_last": eager_bf16,
    "Inductor bf16, channels_last, frozen": inductor,
    "OpenVINO f32": functools.partial(openvino, precision="float32"),
    "OpenVINO bf16": functools.partial(openvino, precision="bfloat16"),
    "ONNX Runtime fp32": onnx,
}
VAE_STACKS = {
    "torch bf16, channels_last, folded doublings": functools.partial(folded, inner=eager_bf16),
    "OpenVINO bf16, folded doublings": functools.partial(
        folded, inner=functools.partial(openvino, precision="bfloat16")
    ),
}


def result(call: Call, inputs: tuple[Tensor, ...]) -> Tensor:
    output = call(*inputs)
    return (output if isinstance(output, Tensor) else output[0]).float()  # type: ignore[index]


def seconds(call: Call, inputs: tuple[Tensor, ...]) -> float:
    start = time.perf_counter()
    call(*inputs)
    return time.perf_counter() - start


@contextlib.contextmanager
def at_most(limit: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"not ready after {limit} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit)
    try:
        yield
    finally:
        signal.alarm(0)


def compare(
    module: nn.Module, inputs: tuple[Tensor, ...], stack, rounds: int, limit: int, original: Call
) -> dict:
    """One stack in turns with `original`, the forward of an untouched copy of the module."""
    expected = result(original, inputs)
    try:
        with stack(module) as call:
            start = time.perf_counter()
            with at_most(limit):
                got = result(call, inputs)
            ready = time.perf_counter() - start
            seconds(call, inputs)
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(rounds):
                times[0].append(seconds(original, inputs))
                times[1].append(seconds(call, inputs))
    except Exception as error:  # a stack that fails is a row, too
        message = str(error).strip().splitlines()
        return {"failed": f"{type(error).__name__}: {message[0] if message else ''}"[:200]}
    ratio = paired_ratio(*times)
    snr = 20 * torch.log10(expected.norm() / (expected - got).norm()).item()
    return {
        "baseline_seconds": median(times[0]),
        "seconds": median(times[1]),
        "speedup": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "snr_db": snr,
        "ready_seconds": ready,
    }


COMPONENTS = {
    "SDXL VAE decoder": (vae, {**STACKS, **VAE_STACKS}),
    "SD 1.5 UNet": (unet, STACKS),
}


def measured(component: str, stack_name: str, rounds: int, limit: int) -> dict[str, object]:
    """One stack on one component, with random weights."""
    build, stacks = COMPONENTS[component]
    torch.manual_seed(0)
    with torch.no_grad():
        module, inputs = build()
        original, _ = build()
        original.load_state_dict(module.state_dict())
        with FlopCounterMode(display=False) as counter:
            original(*inputs)
        times = compare(module, inputs, stacks[stack_name], rounds, limit, original.forward)
    return {
        "component": component,
        "stack": stack_name,
        "gflop": counter.get_total_flops() / 1e9,
        "rounds": rounds,
        **times,
    }


def main() -> None:
    frame = Frame(__file__, __doc__)
    frame.parser.add_argument("--rounds", type=int, default=5)
    frame.parser.add_argument(
        "--limit", type=int, default=240, help="seconds that a conversion or compilation may take"
    )
    frame.parser.add_argument(
        "--only", default="", help="the component or stack whose name holds this"
    )
    options = frame.parse()
    rows = {(row["component"], row["stack"]): row for row in frame.earlier().get("rows", [])}
    for component, (_, stacks) in COMPONENTS.items():
        for stack in stacks:
            if options.only not in f"{component}, {stack}":
                continue
            row = measured(component, stack, options.rounds, options.limit)
            rows.pop((component, stack), None)  # a row measured again goes to the end
            rows[component, stack] = row
            gc.collect()
            print(row, flush=True)
            frame.write({"rows": list(rows.values())})


if __name__ == "__main__":
    main()
