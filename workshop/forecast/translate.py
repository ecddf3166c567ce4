"""Translate published measurements into rows that `halftime forecast evaluate` can read.

Reads published_benchmarks.csv (as the sources print them), published_latency.csv and
published_quantised.csv (already in the form), writes rows.csv. A row whose configuration its source
leaves open (steps, guidance, CPU offload, other software) is left out, and the reasons are counted
at the end. What is inferred, and from what:

- torch's default fp32 means TF32 in convolutions only; LAMBDA's fp32 ran in NVIDIA's container,
  which lets matrix products use TF32 as well (`TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1`), and neither
  DFAST's fp32 row nor DPT1's of the torch 2.0 nightly can be reached without: tf32.
- 'xFormers' rows are fused attention (sdpa); on the RTX 4090 they, and every torch 1.13 row there,
  ran without native kernels and are dropped, as the data's own README advises.
- `torch.compile` in its default mode launches kernels from the host: those rows are kept from batch
  4 on.
- img2img and inpainting repeat the txt2img rows to about 2 %: dropped, since they would count one
  machine thrice.

    python -m workshop.forecast.translate
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
Row = dict[str, str]
FIELDS = [
    "id",
    "gpu",
    "host",
    "kind",
    "steps",
    "parts",
    "milliseconds",
    "source",
    "family",
    "grade",
]


class Skip(Exception):
    """This row is left out; the text says why."""


def part(
    name: str, batch: int, px: int, dtype: str, mode: str, attention: str, times: int, **extra: int
) -> str:
    more = "".join(f":{key}={value}" for key, value in extra.items())
    return f"{name}:batch={batch}:px={px}{more}:dtype={dtype}:{mode}:{attention}:x{times}"


def attention_of(config: str) -> str:
    words = ("vanilla", "base attention", "no SDPA", "no xformers")
    return "math" if any(word in config for word in words) else "sdpa"


def number(text: str) -> int:
    digits = "".join(letter for letter in text.split("(")[-1] if letter.isdigit()) if text else ""
    if not digits:
        raise Skip("steps unstated")
    return int(digits)


def pixels(row: Row) -> int:
    sides = row["resolution"].split("x")
    if not sides[0].isdecimal() or sides[0] != sides[-1]:
        raise Skip("size unstated or not square")
    return int(sides[0])


def milliseconds(row: Row) -> float:
    value = float(row["value"])
    return {"s": value * 1e3, "ms": value, "it/s": 1e3 / value, "s/it": value * 1e3}[row["unit"]]


def sd15_total(row: Row, dtype: str, steps: int, unet: str = "sd15_unet") -> tuple[str, str]:
    config, batch, px = row["config"], int(row["batch"]), pixels(row)
    mode = "compile" if "compile" in config else "eager"
    if mode == "compile" and batch < 4:
        raise Skip("torch.compile default mode, host-bound")
    attention = attention_of(config)
    sliced = "vae_slicing" in config
    return "total", ";".join(
        [
            part("clip_l", batch, 77, dtype, "eager", "sdpa", 2),
            part(unet, 2 * batch, px, dtype, mode, attention, steps),
            part(
                "sd_vae",
                1 if sliced else batch,
                px,
                dtype,
                "eager",
                attention,
                batch if sliced else 1,
            ),
        ]
    )


def dpt1(row: Row) -> tuple[str, str]:
    if row["gpu"] == "RTX 4090" and "nightly" not in row["config"]:
        raise Skip("torch 1.13 without native Ada kernels")
    if row["dtype"] == "fp32" and "xFormers" in row["config"]:
        raise Skip(
            "xFormers of 2022 in fp32: a third slower than torch's own attention, another kernel"
        )
    # On an A100 those took 29.4 s where convolutions in TF32 and the rest at the fp32 peak would
    # need 31 at least.
    dtype = "tf32" if row["dtype"] == "fp32" and "nightly" in row["config"] else row["dtype"]
    return sd15_total(row, dtype, 50)


def ort(row: Row) -> tuple[str, str]:
    if "TensorRT" in row["config"]:
        kind, parts = sd15_total(row, row["dtype"], 50)
        return f"{kind}-trt", parts.replace(":eager:", ":compile:")
    if not row["config"].startswith("torch"):
        raise Skip("other software than torch")
    return sd15_total(row, row["dtype"], 50)


def lambda_labs(row: Row) -> tuple[str, str]:
    if "MIG" in row["gpu"]:
        raise Skip("a slice of a GPU (MIG)")
    volta = "V100" in row["gpu"]
    dtype = "tf32" if row["dtype"] == "fp32" and not volta else row["dtype"]
    return sd15_total(row, dtype, 30)


def dpt2(row: Row) -> tuple[str, str]:
    model, batch = row["model"], 2 * int(row["batch"])
    mode = "compile" if "compile" in row["config"] else "eager"
    if "img2img" in model or "inpaint" in model:
        raise Skip("repeats txt2img")
    if "DeepFloyd" in model:
        raise Skip("architecture not built in")
    if model == "SD1.5 txt2img" and "nightly" in row["config"]:
        raise Skip("already in the evaluable file")
    unet = "sdxl_unet" if "SDXL" in model else "sd15_unet"
    parts = [part(unet, batch, pixels(row), "fp16", mode, "sdpa", 1)]
    if "ControlNet" in model:
        parts.append(part("sd15_controlnet", batch, pixels(row), "fp16", "eager", "sdpa", 1))
    return "step", ";".join(parts)


def hfvae(row: Row) -> tuple[str, str]:
    if "untiled" not in row["config"]:
        raise Skip("tiled decode")
    dtype = "fp32" if "fp32" in row["dtype"] else "fp16"
    name = "sd_vae_encoder" if "encode" in row["stage"] else "sd_vae"
    return "stage", part(name, 1, pixels(row), dtype, "eager", "sdpa", 1)


def dfp16(row: Row) -> tuple[str, str]:
    attention = attention_of(row["config"])
    if row["unit"] == "it/s":
        return "step", part("sd15_unet", 2, pixels(row), "fp16", "eager", attention, 1)
    if row["config"] not in ("eager", "original eager", "baseline eager", "eager, tf32 matmul on"):
        raise Skip("autocast, tracing or unclear repeats")
    dtype = {"fp32": "fp32", "tf32": "tf32"}.get(row["dtype"], "fp16")
    return sd15_total({**row, "config": "vanilla"}, dtype, 50)


def flux_total(row: Row, steps: int, name: str = "flux", tokens: int = 512) -> tuple[str, str]:
    px = 1024 if "1024" in row["resolution"] else pixels(row)
    mode = "compile" if "compile" in row["config"] else "eager"
    return "total", ";".join(
        [
            part("clip_l", 1, 77, "bf16", "eager", "sdpa", 1),
            part("t5_xxl", 1, tokens, "bf16", "eager", "sdpa", 1),
            part(name, 1, px, "bf16", mode, "sdpa", steps, tokens=tokens),
            part("flux_vae", 1, px, "bf16", "eager", "sdpa", 1),
        ]
    )


def orth100(row: Row) -> tuple[str, str]:
    if "ORT" in row["config"]:
        raise Skip("other software than torch")
    if "FLUX" not in row["model"]:
        raise Skip("guidance unstated")
    schnell = "schnell" in row["model"]
    return flux_total(
        row, int(row["steps"]), "flux_schnell" if schnell else "flux", 256 if schnell else 512
    )


def flux_rows(row: Row) -> tuple[str, str]:
    if (
        row["model"] != "FLUX.1-dev"
        or row["dtype"] != "bf16"
        or not row["gpu"].startswith(("L20", "A100", "H100"))
    ):
        raise Skip("other model, quantised, or no GPU")
    if "fp8" in row["config"]:
        raise Skip("other model, quantised, or no GPU")
    if row["id"] in ("PARA-005", "FFAST-002", "FFAST-004"):
        raise Skip("already in the evaluable file")
    return flux_total(row, number(row["steps"]))


def sdxl_total(row: Row, dtype: str, steps: int) -> tuple[str, str]:
    config = row["config"]
    mode = "compile" if "compile" in config else "eager"
    guided = 1 if row["cfg"] == "off" else 2
    attention = attention_of(config)
    # the pipeline decodes in fp32 where the model is fp16 (force_upcast)
    vae = "fp32" if dtype == "fp16" else dtype
    return "total", ";".join(
        [
            part("clip_l", 1, 77, dtype, "eager", "sdpa", guided),
            part("clip_g", 1, 77, dtype, "eager", "sdpa", guided),
            part("sdxl_unet", guided, 1024, dtype, mode, attention, steps),
            part("sdxl_vae", 1, 1024, vae, "eager", attention, 1),
        ]
    )


def lcm(row: Row) -> tuple[str, str]:
    return sdxl_total(row, "fp16", int(row["steps"]))


def pixart(row: Row) -> tuple[str, str]:
    if "SDXL" in row["model"]:
        return sdxl_total(row, "fp16", int(row["steps"]))
    if row["gpu"].startswith("T4"):
        raise Skip("the text encoder does not fit, how it ran is unstated")
    guided = 1 if row["cfg"] == "off" else 2
    steps = number(row["steps"])
    batch = int(row["batch"])
    alpha = "alpha" in row["model"] or "delta" in row["model"]
    tokens = 120 if alpha else 300
    return "total", ";".join(
        [
            part("t5_xxl", 1, tokens, "fp16", "eager", "sdpa", guided),
            part(
                "pixart_alpha" if alpha else "pixart_sigma",
                guided * batch,
                1024,
                "fp16",
                "eager",
                "sdpa",
                steps,
                tokens=tokens,
            ),
            part("sdxl_vae", batch, 1024, "fp16", "eager", "sdpa", 1),
        ]
    )


def quanto(row: Row) -> tuple[str, str]:
    if row["dtype"] != "fp16":
        raise Skip("weights quantised by quanto")
    if "PixArt" in row["model"]:
        return pixart(row)
    return "total", ";".join(
        [
            part("clip_l", 1, 77, "fp16", "eager", "sdpa", 2),
            part("clip_g", 1, 77, "fp16", "eager", "sdpa", 2),
            part("t5_xxl", 1, 256, "fp16", "eager", "sdpa", 2),
            part("sd3_medium", 2, 1024, "fp16", "eager", "sdpa", number(row["steps"])),
            part("sd3_vae", 1, 1024, "fp16", "eager", "sdpa", 1),
        ]
    )


def cogvideox(row: Row) -> tuple[str, str]:
    if "1.5" in row["model"]:
        raise Skip("architecture not built in")
    name = "cogvideox_2b" if "2B" in row["model"] else "cogvideox_5b"
    dtype = "fp16" if "2B" in row["model"] else "bf16"
    return "total", ";".join(
        [
            part("t5_xxl", 1, 226, dtype, "eager", "sdpa", 2),
            f"{name}:batch=2:px=720x480:frames=49:dtype={dtype}:eager:sdpa:x50",
            f"cogvideox_vae:batch=1:px=720x480:frames=49:dtype={dtype}:eager:sdpa:x1",
        ]
    )


# prefix -> translator and grade
SOURCES: dict[str, tuple[Callable[[Row], tuple[str, str]], str]] = {
    "DPT1": (dpt1, "A"),
    "DPT2": (dpt2, "B"),
    "ORT": (ort, "A"),
    "LAMBDA": (lambda_labs, "A"),
    "HFVAE": (hfvae, "A"),
    "DFP16": (dfp16, "B"),
    "ORTH100": (orth100, "B"),
    "PARA": (flux_rows, "B"),
    "CDIT": (flux_rows, "B"),
    "FFAST": (flux_rows, "B"),
    "LCM": (lcm, "C"),
    "PIX": (pixart, "C"),
    "QUANTO": (quanto, "B"),
    "COG": (cogvideox, "C"),
}
FAMILIES = {
    "sdxl_unet": "sdxl",
    "sd15_unet": "sd15",
    "flux": "flux",
    "flux_schnell": "flux",
    "pixart_alpha": "pixart",
    "pixart_sigma": "pixart",
    "sd3_medium": "sd3",
    "cogvideox_2b": "cogvideox",
    "cogvideox_5b": "cogvideox",
    "sd_vae": "vae",
    "sd_vae_encoder": "vae",
}


def family(parts: str) -> str:
    names = [text.split(":")[0] for text in parts.split(";")]
    return next((FAMILIES[name] for name in names if name in FAMILIES and "vae" not in name), "vae")


def translated(row: Row) -> Row:
    prefix = row["id"].rsplit("-", 1)[0]
    if prefix not in SOURCES:
        raise Skip(f"source {prefix}: steps, dtype or software unstated")
    if "memory" in row["stage"] or row["unit"] not in ("s", "ms", "it/s", "s/it", "s (approx)"):
        raise Skip("not a time")
    row = {**row, "unit": row["unit"].removesuffix(" (approx)")}
    function, grade = SOURCES[prefix]
    kind, parts = function(row)
    return {
        "id": row["id"],
        "gpu": row["gpu"],
        "host": f"{prefix.lower()}-{row['gpu']}",
        "kind": kind,
        "steps": next((word[1:] for word in reversed(parts.split(":")) if "unet" in parts), "1")
        if kind == "step"
        else str(number(row["steps"]))
        if kind.startswith("total")
        else "0",
        "parts": parts,
        "milliseconds": f"{milliseconds(row):.6g}",
        "source": row["source"],
        "family": family(parts),
        "grade": grade,
    }


def already_in_form() -> list[Row]:
    rows: list[Row] = []
    for name in ("published_latency.csv", "published_quantised.csv"):
        with open(HERE / name, newline="") as file:
            rows += list(csv.DictReader(file))
    for index, row in enumerate(rows):
        if row["id"] == "sdxl-30-tf32-vanilla":
            row["parts"] = row["parts"].replace("dtype=fp32", "dtype=tf32")
        row |= {
            "family": family(row["parts"]),
            "grade": "A",
            "id": f"PL-{index + 1:02d}-{row['id']}",
        }
    return rows


def main() -> None:
    with open(HERE / "published_benchmarks.csv", newline="") as file:
        published = list(csv.DictReader(file))
    rows, skipped = already_in_form(), Counter[str]()
    for row in published:
        try:
            rows.append(translated(row))
        except Skip as reason:
            skipped[str(reason)] += 1
    with open(HERE / "rows.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} rows written, {sum(skipped.values())} of {len(published)} left out:")
    for reason, count in skipped.most_common():
        print(f"  {count:4d}  {reason}")


if __name__ == "__main__":
    main()
