"""emoji-xl's parts, untrained: the shapes are decided here and nowhere else."""

import json
import re
from pathlib import Path

from diffusers import AutoencoderKL, AutoencoderTiny, EulerDiscreteScheduler, UNet2DConditionModel
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from workshop.bundled.artwork import COLOURS, NOUNS, VOCABULARY

LENGTH = 32  # tokens of a prompt
WIDTH = 128  # of each text encoder
START, END = "<|startoftext|>", "<|endoftext|>"
# Words outside the vocabulary that people type; they have tokens, but little was learnt about them.
OTHER_WORDS = (
    "photo picture image drawing icon black white small large big and with in on the an no"
)
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def words() -> list[str]:
    text = " ".join([*NOUNS, *COLOURS, *VOCABULARY["styles"].values(), OTHER_WORDS]).lower()
    return sorted(set(re.findall(r"[a-z]+", text)))


def train_tokenizer(out: Path) -> None:
    """Byte-level BPE as CLIP's, small enough to ship, large enough that each word above is one
    token."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    alphabet = ["!", *(c for c in letters if c != "!")]
    trainer = trainers.BpeTrainer(
        vocab_size=4096, min_frequency=1, initial_alphabet=alphabet, end_of_word_suffix="</w>"
    )
    bpe.train_from_iterator(words(), trainer)
    merges = [" ".join(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    pieces = [
        *alphabet,
        *(c + "</w>" for c in alphabet),
        *(m.replace(" ", "") for m in merges),
        START,
        END,
    ]
    out.mkdir(parents=True, exist_ok=True)
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    (out / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (out / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")


def tokenizers(folder: Path) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """The second one pads with '!', as SDXL's does."""
    vocabulary = json.loads((folder / "vocab.json").read_text())
    merges = [tuple(line.split()) for line in (folder / "merges.txt").read_text().splitlines()[1:]]
    return (
        CLIPTokenizer(vocabulary, merges, model_max_length=LENGTH),
        CLIPTokenizer(vocabulary, merges, model_max_length=LENGTH, pad_token="!"),
    )


def text_encoders(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config), CLIPTextModelWithProjection(config)


def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=2 * WIDTH,
        attention_head_dim=(2, 4, 4),  # the number of heads, under diffusers' old name for it
        transformer_layers_per_block=1,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=6 * 32 + WIDTH,
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
    )


def vae() -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=128,
        latent_channels=4,
        block_out_channels=(32, 64, 96, 128),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=16,
        scaling_factor=1.0,  # the latents are whitened inside quant_conv
        force_upcast=False,
    )


def tiny_vae() -> AutoencoderTiny:
    return AutoencoderTiny(
        latent_channels=4,
        encoder_block_out_channels=(24,) * 4,
        decoder_block_out_channels=(24,) * 4,
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
        scaling_factor=1.0,
    )


def scheduler() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="leading",
        steps_offset=1,
    )
