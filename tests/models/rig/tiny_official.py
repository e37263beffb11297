"""A cascade in the layout of the official files, small enough for a test and filled with drawn weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn

from ultraflash.kernels.block_sparse import SelectionRule
from ultraflash.models.dit import CausalDiT
from ultraflash.models.preset import Preset, load_preset
from ultraflash.models.text_encoder import TextConfig
from ultraflash.models.tiny_decoder import DecoderConfig, EncoderConfig, TinyDecoder, TinyEncoder
from ultraflash.models.upsampler import LatentUpsampler

WORDS = ("<pad>", "</s>", "<unk>", "a", "calm", "sea", "desert", "at", "noon")
DIT = {"dim": 24, "ffn_dim": 32, "layers": 2, "heads": 2, "text_tokens": 16, "text_dim": 32, "freq_dim": 16}


@dataclass(frozen=True)
class Official:
    """Where the files lie, what they are of, and the tensors in them under our names, by part."""

    preset: Preset
    home: Path
    tensors: dict[str, dict[str, Tensor]]


def tiny_official_preset() -> Preset:
    full = load_preset("ultraflash-2k")
    assert full.sr is not None
    return replace(
        full,
        name="tiny-official",
        text=TextConfig(kind="umt5", tokens=16, width=32),
        base=replace(full.base, dit=replace(full.base.dit, **DIT), rows=4, cols=8, window_frames=6),
        upsampler={
            factor: replace(config, mid_channels=8, blocks=1) for factor, config in full.upsampler.items()
        },
        sr=replace(
            full.sr,
            dit=replace(full.sr.dit, **DIT),
            block=(2, 2, 2),
            rule=SelectionRule(chunk_frames=2, local_range=3, ratio=0.5),
        ),
        decoder=DecoderConfig(stage_channels=(8, 8, 8, 8), blocks_per_stage=(1, 1, 1, 0)),
        sizes=tuple(replace(size, rows=4, cols=8) for size in full.sizes),
        # Wan's VAE has one size, that of half a gigabyte.
        sources=tuple(source for source in full.sources if source.part != "vae"),
    )


def drawn(net: nn.Module, seed: int) -> dict[str, Tensor]:
    """Weights that keep activations alive."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator) * (0.7 / value[0].numel() ** 0.5)
        if value.dim() > 1
        else torch.rand(value.shape, generator=generator) * (0.2 if name.endswith("bias") else 1.0)
        for name, value in net.state_dict().items()
    }


def wan_text_tensors(width: int) -> dict[str, Tensor]:
    """A text encoder of two layers and two heads in the naming of Wan's own file."""
    generator = torch.Generator().manual_seed(9)

    def matrix(rows: int, cols: int) -> Tensor:
        return torch.randn(rows, cols, generator=generator) / cols**0.5

    tensors = {"token_embedding.weight": matrix(len(WORDS), width), "norm.weight": torch.ones(width)}
    for layer in range(2):
        block = f"blocks.{layer}"
        tensors |= {f"{block}.norm{i}.weight": torch.ones(width) for i in (1, 2)}
        tensors |= {f"{block}.attn.{name}.weight": matrix(width, width) for name in "qkvo"}
        tensors |= {
            f"{block}.ffn.gate.0.weight": matrix(48, width),
            f"{block}.ffn.fc1.weight": matrix(48, width),
            f"{block}.ffn.fc2.weight": matrix(width, 48),
            f"{block}.pos_embedding.embedding.weight": matrix(32, 2),
        }
    return tensors


def write_tokenizer(path: Path) -> None:
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))


def save(tensors: object, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, path)


def write_official(home: Path) -> Official:
    """Write the official files, as the repositories lay them out, of a tiny cascade."""
    preset = tiny_official_preset()
    assert preset.sr is not None
    assert isinstance(preset.decoder, DecoderConfig)
    tensors = {
        "base": drawn(CausalDiT(preset.base.dit), 1),
        "sr": drawn(CausalDiT(preset.sr.dit), 2),
        "decoder": drawn(TinyDecoder(preset.decoder), 3),
        "encoder": drawn(TinyEncoder(EncoderConfig()), 4),
        "text": wan_text_tensors(preset.text.width),
        **{f"upsampler_x{f}": drawn(LatentUpsampler(c), 4 + f) for f, c in preset.upsampler.items()},
    }
    folders = {source.part: source.store for source in preset.sources}
    wrapped = {f"model._fsdp_wrapped_module.{key}": value for key, value in tensors["base"].items()}
    last = {f"model.{key}": torch.zeros_like(value) for key, value in tensors["base"].items()}
    save(
        {"generator": last, "generator_ema": wrapped},
        home / folders["base"] / "checkpoints" / "self_forcing_dmd.pt",
    )
    save(tensors["sr"], home / folders["sr"] / "sr_dit_sparse.pth")
    autoencoder = {
        f"{half}.{key}": value for half in ("encoder", "decoder") for key, value in tensors[half].items()
    }
    # TAEHV's file may hold more rows than are used where time grows.
    grow = "decoder.5.conv.weight"
    assert autoencoder[grow].shape == (8, 8, 1, 1)
    autoencoder[grow] = torch.cat((torch.zeros(8, 8, 1, 1), autoencoder[grow]))
    save(autoencoder, home / folders["decoder"] / "tiny_decoder.pth")
    for factor in preset.upsampler:
        part = f"upsampler_x{factor}"
        save({"model": tensors[part]}, home / folders[part] / f"latent_upsampler_{factor}.pth")
    save(tensors["text"], home / folders["text"] / "models_t5_umt5-xxl-enc-bf16.pth")
    write_tokenizer(home / folders["text"] / "google" / "umt5-xxl" / "tokenizer.json")
    return Official(preset=preset, home=home, tensors=tensors)
