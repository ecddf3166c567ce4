"""The bundled model with a planted delay, for both sides of a gate.

HALFTIME_PLANTED is 'STAGE:SECONDS', of encode_prompt, denoise or vae_decode; the delay is spread
over HALFTIME_PLANTED_CALLS calls of the component. It is slept, so it costs others nothing.
"""

from __future__ import annotations

import os
import time

from diffusers import StableDiffusionXLPipeline

from halftime import bundled

# stage -> the component and its method that belong to it alone
WHERE = {
    "encode_prompt": ("text_encoder", "forward"),
    "denoise": ("unet", "forward"),
    "vae_decode": ("vae", "decode"),
}


def pipeline() -> StableDiffusionXLPipeline:
    """The bundled model, slower by what the variables say; by 0 s it has the wrapper alone."""
    loaded = bundled.load()
    stage, _, seconds = os.environ.get("HALFTIME_PLANTED", "vae_decode:0").partition(":")
    calls = int(os.environ.get("HALFTIME_PLANTED_CALLS", "1"))
    component, method = WHERE[stage]
    delay(getattr(loaded, component), method, float(seconds) / calls)
    return loaded


def delay(component: object, method: str, seconds: float) -> None:
    """Sleep so long after each call of the method."""
    original = getattr(component, method)

    def slowed(*arguments: object, **named: object) -> object:
        result = original(*arguments, **named)
        time.sleep(seconds)
        return result

    setattr(component, method, slowed)
