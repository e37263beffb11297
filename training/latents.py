"""The latents cache: Vista clips, encoded once, and the text states of their captions.

Stage ``latents`` makes what the generator learns from; ``rare_latents``, in ``RUN_DIR/rare_latents`` and without text,
the same of the pairs of attributes that are held out from it, which only the classifier may learn.

``RUN_DIR/latents`` holds shards (see `shards`) of N clips: ``latents`` float16 (N, C, T, H, W), ``objects``
uint8 (N, T, H, W), the share of each latent that the clip's object covers (255 is all), and the metadata ``scenes``, a
JSON list of what was drawn. ``RUN_DIR/latents/text`` holds, under the same numbers, ``text`` float16
(N, K, L, D) and the metadata ``captions``, a JSON list of N lists of K captions. They are apart so that captions can
be written anew without drawing anything.

B batch, N clips of a shard, K captions of a clip, T latent frames, C channels, H W latent rows and columns,
L text tokens, D width of the text states.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ultraflash.models.errors import BadConfig, MissingWeights
from ultraflash.models.patch_autoencoder import PATCH_FRAMES, UNTRIMMED_FRAMES, PatchConfig
from ultraflash.models.weights import ENCODER_FILE, sha256_of
from ultraflash.training.loop import StageConfig
from ultraflash.training.patches import LINEAR, load_encoder, to_pixels
from ultraflash.training.placement import on_device
from ultraflash.training.seeding import counter_generator, counter_seed
from ultraflash.training.shards import Shard, make_shards, shard_numbers, shard_path, shard_paths
from ultraflash.training.vista.captions import caption
from ultraflash.training.vista.painter import render_parts
from ultraflash.training.vista.scene import WORLD, Scene, sample_scene

LATENTS_FOLDER = "latents"
RARE_FOLDER = "rare_latents"

VISIBLE = 0.06
"""Change of a pixel's colour from which an object counts as seen there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentsConfig(StageConfig):
    """What to render and encode. A step is one shard; ``minutes`` ends the rendering between shards.

    ``latent_frames`` latent frames come from 4 * latent_frames - 3 pictures of ``height`` x ``width`` at ``fps``.
    Clips of split "held_out" go to a folder of their own and get no text: generators learn nothing from there.
    """

    patch: PatchConfig = LINEAR
    split: str = "train"
    clips_per_shard: int = 32
    captions_per_clip: int = 3
    latent_frames: int = 12
    height: int = 256
    width: int = 448
    fps: int = 16
    latest_start_s: float = 4.0
    workers: int = 2

    def __post_init__(self) -> None:
        # slots=True makes the class anew, so the argument-less super() would name the wrong one.
        StageConfig.__post_init__(self)
        if min(self.clips_per_shard, self.captions_per_clip, self.latent_frames) < 1:
            raise BadConfig("clips_per_shard, captions_per_clip and latent_frames start at 1")
        if self.height % 16 or self.width % 16:
            raise BadConfig("height and width are multiples of 16")

    @property
    def folder(self) -> str:
        """Where in a run's folder the clips go."""
        return RARE_FOLDER if self.split == "held_out" else LATENTS_FOLDER


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentsBatch:
    """Clips with one caption each, all float32; ``object_BTHW`` is the share of each latent that its object covers."""

    latent_BCTHW: torch.Tensor
    object_BTHW: torch.Tensor
    text_BLD: torch.Tensor
    captions: tuple[str, ...]


class LatentsDataset:
    """Reader of a latents cache. Shards are memory-mapped, so opening is quick and the system caches what is used; for
    training on a GPU all of it is copied there, 0.5 MB a clip, unless that took more than half of the memory free."""

    def __init__(
        self,
        folder: Path,
        *,
        seed: int = 0,
        held_out_shards: int = 0,
        held_out: bool = False,
        object_balance: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        """Open the cache in ``folder``, as far as it has its text, for training on ``device``.

        The first ``held_out_shards`` shards are left out, or with ``held_out`` are all there is. A clip is drawn in
        proportion to ``n ** -object_balance``, where n clips have its object: 0 draws all clips alike, 1 all objects.
        Raises MissingWeights where no shard is left.
        """
        paths = [path for path in shard_paths(folder) if (folder / "text" / path.name).is_file()]
        paths = paths[:held_out_shards] if held_out else paths[held_out_shards:]
        if not paths:
            raise MissingWeights(f"no latents in {folder}; make them with: ultraflash train latents")
        self._seed = seed
        self._latents, self._objects, self._text, self._captions = [], [], [], []
        kinds: list[str | None] = []
        for path in paths:
            with safe_open(path, "pt") as shard:
                kinds += [scene["object"] for scene in json.loads(shard.metadata()["scenes"])]
                self._latents.append(shard.get_tensor("latents"))
                self._objects.append(shard.get_tensor("objects"))
            with safe_open(folder / "text" / path.name, "pt") as shard:
                self._text.append(shard.get_tensor("text"))
                self._captions.append(json.loads(shard.metadata()["captions"]))
        self._index = [
            (shard, clip) for shard, names in enumerate(self._captions) for clip in range(len(names))
        ]
        counts = Counter(kinds)
        self._chances = torch.tensor([counts[kind] ** -object_balance for kind in kinds])
        # A GPU would wait for batches that a CPU puts together.
        self._together: ClipsTogether | None = None
        if torch.device(device).type == "cuda" and 2 * self._size() < torch.cuda.mem_get_info(device)[0]:
            self._together = ClipsTogether.of(self._latents, self._objects, self._text, device)

    def _size(self) -> int:
        """Bytes of all tensors."""
        return sum(part.nbytes for parts in (self._latents, self._objects, self._text) for part in parts)

    def __len__(self) -> int:
        return len(self._index)

    def clip(self, number: int, caption: int = 0) -> tuple[torch.Tensor, torch.Tensor, str]:
        """Clip ``number``: float16 latents (C, T, H, W), text states (L, D) of one of its captions, and that."""
        shard, clip = self._index[number]
        return (
            self._latents[shard][clip],
            self._text[shard][clip, caption],
            self._captions[shard][clip][caption],
        )

    def objects(self, number: int) -> torch.Tensor:
        """Share of each latent of clip ``number`` that its object covers: float32 (T, H, W) in [0, 1]."""
        shard, clip = self._index[number]
        return self._objects[shard][clip].float() / 255.0

    def batch(self, step: int, size: int) -> LatentsBatch:
        """``size`` different clips, each with one of its captions: the same for the same seed and step.

        On the GPU, where that is the device to train on.
        """
        generator = counter_generator(self._seed, "latents batch", step)
        # A random order in which a clip of twice the chance comes before another in two cases of three.
        order = torch.empty(len(self)).exponential_(generator=generator) / self._chances
        picked = order.argsort()[:size].tolist()
        choices = len(self._captions[0][0])
        which = torch.randint(choices, (len(picked),), generator=generator).tolist()
        captions = tuple(
            self._captions[shard][clip][caption]
            for (shard, clip), caption in zip((self._index[number] for number in picked), which, strict=True)
        )
        if self._together is not None:
            return self._together.batch(picked, which, captions)
        clips = [self.clip(number, caption) for number, caption in zip(picked, which, strict=True)]
        return LatentsBatch(
            latent_BCTHW=torch.stack([latent_CTHW for latent_CTHW, _, _ in clips]).float(),
            object_BTHW=torch.stack([self.objects(number) for number in picked]),
            text_BLD=torch.stack([text_LD for _, text_LD, _ in clips]).float(),
            captions=captions,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipsTogether:
    """All N clips of a cache on one device, in their order, in the dtypes of its shards."""

    latent_NCTHW: torch.Tensor
    object_NTHW: torch.Tensor
    text_NKLD: torch.Tensor

    @classmethod
    def of(
        cls,
        latents: Sequence[torch.Tensor],
        objects: Sequence[torch.Tensor],
        text: Sequence[torch.Tensor],
        device: torch.device | str,
    ) -> ClipsTogether:
        """Copy the tensors of shards, one behind the other, without a second copy of all in memory."""
        return cls(
            latent_NCTHW=_end_to_end(latents, device),
            object_NTHW=_end_to_end(objects, device),
            text_NKLD=_end_to_end(text, device),
        )

    def batch(self, picked: list[int], which: list[int], captions: tuple[str, ...]) -> LatentsBatch:
        """The clips ``picked``, and of the captions of each the one at ``which``."""
        device = self.latent_NCTHW.device
        clips, wordings = on_device(torch.tensor([picked, which]), device)
        return LatentsBatch(
            latent_BCTHW=self.latent_NCTHW[clips].float(),
            object_BTHW=self.object_NTHW[clips].float() / 255.0,
            text_BLD=self.text_NKLD[clips, wordings].float(),
            captions=captions,
        )


def _end_to_end(parts: Sequence[torch.Tensor], device: torch.device | str) -> torch.Tensor:
    whole = torch.empty(
        sum(len(part) for part in parts), *parts[0].shape[1:], dtype=parts[0].dtype, device=device
    )
    for place, part in zip(whole.split([len(part) for part in parts]), parts, strict=True):
        place.copy_(part)
    return whole


def split_latents(
    folder: Path, *, seed: int, held_out_shards: int, object_balance: float, device: torch.device | str
) -> tuple[LatentsDataset, LatentsDataset]:
    """The clips of a cache to learn from on ``device``, and those kept for evaluation, which are all drawn alike."""
    return (
        LatentsDataset(
            folder,
            seed=seed,
            held_out_shards=held_out_shards,
            object_balance=object_balance,
            device=device,
        ),
        LatentsDataset(folder, seed=seed, held_out_shards=held_out_shards, held_out=True),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentsMaker:
    """Draws and encodes the clips of a shard."""

    config: LatentsConfig
    weights: Path

    def describe(self) -> dict[str, Any]:
        """What fixes the bytes: the world, the settings, and the encoder's hash."""
        names = (
            "seed",
            "split",
            "clips_per_shard",
            "latent_frames",
            "height",
            "width",
            "fps",
            "latest_start_s",
        )
        settings = {name: getattr(self.config, name) for name in names}
        world = {"world": WORLD, "visible": VISIBLE}
        return world | settings | {"encoder_sha256": sha256_of(self.weights / ENCODER_FILE)}

    def open(self) -> Callable[[int], Shard]:
        """Load the encoder."""
        config, encoder = self.config, load_encoder(self.config.patch, self.weights)

        @torch.no_grad()
        def make(number: int) -> Shard:
            scenes, latents, objects = [], [], []
            for clip in range(number * config.clips_per_shard, (number + 1) * config.clips_per_shard):
                scene = sample_scene(counter_seed(config.seed, "scene", clip), config.split)
                start = torch.rand((), generator=counter_generator(config.seed, "start", clip))
                frames_THWC, object_THW = render_parts(
                    scene,
                    frames=PATCH_FRAMES * config.latent_frames - UNTRIMMED_FRAMES,
                    height=config.height,
                    width=config.width,
                    fps=config.fps,
                    start_s=float(start) * config.latest_start_s,
                )
                latent_BTCHW = encoder.encode_clip(to_pixels(frames_THWC)[None])
                latents.append(latent_BTCHW[0].transpose(0, 1).half())
                objects.append(object_shares(object_THW, config.patch.patch))
                scenes.append(asdict(scene))
            return Shard(
                tensors={"latents": torch.stack(latents), "objects": torch.stack(objects)},
                metadata={"scenes": json.dumps(scenes)},
            )

        return make


def object_shares(object_THW: torch.Tensor, patch: int) -> torch.Tensor:
    """Share of each latent's patch that an object visibly covers in any of its pictures: uint8 (F, H, W), 255 is all.

    ``object_THW`` is what `render_parts` gives; the first latent frame holds one picture, each later one four.
    """
    seen_THW = (object_THW > VISIBLE).float()
    first_HW, rest_THW = seen_THW[:1], seen_THW[1:]
    later_FHW = rest_THW.unflatten(0, (-1, PATCH_FRAMES)).amax(dim=1)
    share_FHW = torch.nn.functional.avg_pool2d(torch.cat((first_HW, later_FHW)), patch)
    return (255.0 * share_FHW).round().to(torch.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextMaker:
    """Writes and encodes the captions of the clips of a shard that is there."""

    config: LatentsConfig
    folder: Path

    def describe(self) -> dict[str, Any]:
        """What fixes the bytes."""
        return {
            "world": WORLD,
            "captions_per_clip": self.config.captions_per_clip,
            "clips_per_shard": self.config.clips_per_shard,
        }

    def open(self) -> Callable[[int], Shard]:
        """Load the text model."""
        # Here and not above: rendering workers have no use for its runtime.
        from ultraflash.models.text import MiniLMEncoder

        encoder = MiniLMEncoder()
        count = self.config.captions_per_clip

        def make(number: int) -> Shard:
            with safe_open(shard_path(self.folder, number), "pt") as shard:
                scenes = [Scene(**fields) for fields in json.loads(shard.metadata()["scenes"])]
            captions = [[caption(scene, wording) for wording in range(count)] for scene in scenes]
            states = [torch.stack([encoder.encode(line) for line in lines]) for lines in captions]
            return Shard(
                tensors={"text": torch.stack(states).half()}, metadata={"captions": json.dumps(captions)}
            )

        return make


def run(config: LatentsConfig, run_dir: Path) -> bool:
    """Make the shards that are missing, then the text that generators want. Returns False when a signal stopped it."""
    folder = run_dir / config.folder
    weights = run_dir / "weights"
    if not (weights / ENCODER_FILE).is_file():
        raise MissingWeights(f"no encoder in {weights}; make it with: ultraflash train patches")
    drawn = make_shards(
        LatentsMaker(config=config, weights=weights),
        folder,
        name=config.folder,
        numbers=range(config.steps),
        workers=config.workers,
        minutes=config.minutes,
    )
    if config.split == "held_out":
        return drawn
    return drawn and make_shards(
        TextMaker(config=config, folder=folder),
        folder / "text",
        name="text",
        numbers=shard_numbers(folder),
        workers=config.workers,
    )
