"""Pipeline classes of diffusers that have no tiny pipeline here, each with its reason.

Together with those that are built they are every pipeline class that diffusers exports; a test
says which is in neither.
"""

from __future__ import annotations

import inspect

import diffusers
from diffusers import DiffusionPipeline, ModularPipeline
from diffusers.pipelines.pipeline_utils import DeprecatedPipelineMixin

DEPRECATED = "diffusers has deprecated it, and no longer mends it"
_NO_PICTURE = "it has no denoising loop that draws a picture, a video or sound"
_TEXT = "it writes text or places atoms: there is no picture to compare"
_TWO_CALLS = "it inverts a picture in a first call, and only a second one draws"
_PROCESSOR = "no builder written yet: its call needs a vision-language processor"
_OLD = "no builder written yet: the first Kandinsky; version 2.2 is built"
_STAGE = "no builder written yet: it works on what another pipeline drew, and that one is built"
_WIDE = "sizes of the large model are fixed in its code, so that it is too slow to try every fix"
_UPSTREAM = "its call fails in this version of diffusers with the components that it asks for"
_UNWRITTEN = "no builder written yet"

_REASONS: dict[str, tuple[str, ...]] = {
    "its processor needs torchvision, which the project does not depend on": ("OmniGenPipeline",),
    "it needs OpenCV, which the project does not depend on": ("ConsisIDPipeline",),
    "it needs sentencepiece, which the project does not depend on": (
        "KolorsPipeline",
        "KolorsImg2ImgPipeline",
        "KolorsPAGPipeline",
    ),
    "it needs note_seq, a package that is no longer made": ("SpectrogramDiffusionPipeline",),
    "it needs librosa, which the project does not depend on": ("AudioDiffusionPipeline",),
    _NO_PICTURE: (
        "FluxPriorReduxPipeline",
        "LTX2LatentUpsamplePipeline",
        "LTXLatentUpsamplePipeline",
    ),
    _TEXT: ("DiffusionGemmaPipeline", "LLaDA2Pipeline", "RFD4ProteinaPipeline"),
    _TWO_CALLS: ("LEditsPPPipelineStableDiffusion", "LEditsPPPipelineStableDiffusionXL"),
    _PROCESSOR: (
        "BriaFibo2Pipeline",
        "DreamLiteMobilePipeline",
        "DreamLitePipeline",
        "GlmImagePipeline",
        "HunyuanVideoImageToVideoPipeline",
        "JoyImageEditPipeline",
        "JoyImageEditPlusPipeline",
        "LongCatImageEditPipeline",
        "QwenImage21TurboModularPipeline",
        "QwenImageEditModularPipeline",
        "QwenImageEditPlusModularPipeline",
        "QwenImageLayeredModularPipeline",
        "QwenImageLayeredPipeline",
        "ZImageOmniPipeline",
    ),
    _OLD: (
        "KandinskyCombinedPipeline",
        "KandinskyImg2ImgCombinedPipeline",
        "KandinskyImg2ImgPipeline",
        "KandinskyInpaintCombinedPipeline",
        "KandinskyInpaintPipeline",
        "KandinskyPipeline",
        "KandinskyPriorPipeline",
    ),
    _STAGE: (
        "HunyuanImageRefinerPipeline",
        "Kandinsky6SRPipeline",
        "LTX2DFRTemporalRefinePipeline",
        "LTX2VideoDiffusionDecodePipeline",
        "SanaWMLTX2Refiner",
    ),
    _WIDE: (
        "HunyuanDiTControlNetPipeline",  # has sizes of the large model in its code
        "Kandinsky5I2IPipeline",  # draws 1024 x 1024 at the least
        "StableDiffusionXLControlNetUnionImg2ImgPipeline",  # 320 channels in its code
        "StableDiffusionXLControlNetUnionInpaintPipeline",
        "StableDiffusionXLControlNetUnionPipeline",
    ),
    _UPSTREAM: (
        "ChromaInpaintPipeline",  # reads guidance_embeds, which Chroma has not
        "EasyAnimateControlPipeline",  # encode_prompt takes no text_encoder_index
        "Kandinsky5I2VPipeline",  # gives NaN with random weights
    ),
    _UNWRITTEN: (
        "ShapEImg2ImgPipeline",
        "ShapEPipeline",
        "SanaWMPipeline",
        "LTX2DFRPipeline",
        "LTX2HDRPipeline",
        "LTXI2VLongMultiPromptPipeline",
        "Cosmos2_5_TransferPipeline",
        "StableDiffusionLatentUpscalePipeline",
        "VisualClozeGenerationPipeline",
        "VisualClozePipeline",
        "AceStepPipeline",
        "AnimaModularPipeline",
        "AnimateDiffSparseControlNetPipeline",
        "BriaFiboEditPipeline",
        "BriaFiboPipeline",
        "Cosmos2_5_PredictBasePipeline",
        "Cosmos3DistilledModularPipeline",
        "EchoModularPipeline",
        "ErnieImageModularPipeline",
        "ErnieImagePipeline",
        "Flux3DistilledModularPipeline",
        "Flux3ModularPipeline",
        "HeliosModularPipeline",
        "HeliosPipeline",
        "HeliosPyramidDistilledModularPipeline",
        "HeliosPyramidModularPipeline",
        "HeliosPyramidPipeline",
        "HunyuanSkyreelsImageToVideoPipeline",
        "HunyuanVideo15ImageToVideoPipeline",
        "HunyuanVideoFramepackPipeline",
        "Ideogram4ModularPipeline",
        "Ideogram4Pipeline",
        "KandinskyV22ControlnetImg2ImgPipeline",
        "KandinskyV22ControlnetPipeline",
        "Krea2ModularPipeline",
        "Krea2Pipeline",
        "Krea2TurboModularPipeline",
        "LTX25ModularPipeline",
        "LongCatAudioDiTPipeline",
        "MiniMaxH3ModularPipeline",
        "MiniMaxMusic3ModularPipeline",
        "MotifVideoImage2VideoPipeline",
        "MotifVideoPipeline",
        "StableAudio3AudioToAudioPipeline",
        "StableAudio3InpaintPipeline",
        "StableAudio3Pipeline",
        "Wan22Image2VideoModularPipeline",
        "Wan22VaceModularPipeline",
        "WanAnimate2DistilledModularPipeline",
        "WanAnimate2ModularPipeline",
        "WanImage2VideoModularPipeline",
        "ZImageControlNetInpaintPipeline",
        "ZImageControlNetPipeline",
    ),
}
NOT_BUILT: dict[str, str] = {name: reason for reason, names in _REASONS.items() for name in names}


def exported() -> dict[str, type]:
    """Every pipeline class that diffusers exports and that can be imported here, by its name."""
    classes = {}
    for name in dir(diffusers):
        try:
            value = getattr(diffusers, name)
        except (ImportError, AttributeError, RuntimeError):
            continue  # its module needs a package that is not installed
        if inspect.isclass(value) and issubclass(value, DiffusionPipeline | ModularPipeline):
            classes[name] = value
    return {
        name: value
        for name, value in classes.items()
        if value not in (DiffusionPipeline, ModularPipeline)
    }


def is_deprecated(pipeline_class: type) -> bool:
    """Whether diffusers has given the class up."""
    return issubclass(pipeline_class, DeprecatedPipelineMixin) or (
        "deprecated" in pipeline_class.__module__
    )
