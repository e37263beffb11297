"""A stream as bytes: everything it carries, so that it goes on elsewhere or later without a seam.

A snapshot is one safetensors file. Its tensors are those of the stream as they are kept (int8 stays int8); what is no
tensor is JSON in the file's metadata. Keys and values of the prompt are not in it: they are made of its text again.

A compact snapshot has the latents alone, which are a small part of a large stream. What is remembered of them is made
anew, as at a change of prompt and of size: the picture goes on, but not bit for bit.
"""

from __future__ import annotations

import dataclasses
import json
import os
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ultraflash.models.dynamic_cache import DynamicCacheConfig
from ultraflash.models.errors import BadConfig, BadSnapshot
from ultraflash.models.fingerprint import Identity
from ultraflash.models.prompt_change import blend_between
from ultraflash.models.spread_limit import FIRST_BLOCKS, Spread
from ultraflash.models.stream_state import StreamState

_FORMAT = "ultraflash-stream"
VERSION = 1

_COUNTS = ("groups", "latent_frames", "frames_emitted", "steps_saved", "refreshes_skipped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A stream between two groups.

    Attributes:
        identity: what it was made with.
        fields: what is no tensor, ready for JSON.
        tensors: copies on the CPU.
    """

    identity: Identity
    fields: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def prompt(self) -> str:
        """The prompt in force, or at the end of a blend that has begun."""
        return self._word("prompt")

    @property
    def size(self) -> str:
        """Name of the size of the newest group."""
        return self._word("size")

    @property
    def next_size(self) -> str:
        """Name of the size in force from the next group on."""
        return self._word("next_size")

    @property
    def seed(self) -> int:
        """Of all noise of the stream."""
        seed = self.fields.get("seed")
        if not isinstance(seed, int):
            raise BadSnapshot(f"the snapshot's seed is {seed!r}")
        return seed

    def _word(self, name: str) -> str:
        word = self.fields.get(name)
        if not isinstance(word, str):
            raise BadSnapshot(f"the snapshot's {name} is {word!r}")
        return word

    @property
    def compact(self) -> bool:
        """Whether it has the latents alone."""
        return bool(self.fields.get("compact", False))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return _bytes_of(self.tensors)

    def to_bytes(self) -> bytes:
        """The snapshot as a safetensors file."""
        metadata = {
            "format": _FORMAT,
            "version": str(VERSION),
            "identity": json.dumps(dataclasses.asdict(self.identity)),
            "fields": json.dumps(dict(self.fields)),
        }
        return safetensors.torch.save(dict(self.tensors), metadata)

    @classmethod
    def from_bytes(cls, data: bytes) -> Snapshot:
        """Read what :meth:`to_bytes` wrote. Raises BadSnapshot for anything else."""
        try:
            metadata = _metadata(data)
            if metadata.get("format") != _FORMAT or metadata.get("version") != str(VERSION):
                raise BadSnapshot(
                    f"this is {metadata.get('format')!r}, version {metadata.get('version')!r}; "
                    f"{_FORMAT!r}, version '{VERSION}', can be read"
                )
            return cls(
                identity=Identity(**json.loads(metadata["identity"])),
                fields=json.loads(metadata["fields"]),
                tensors=safetensors.torch.load(data),
            )
        except (SafetensorError, struct.error, ValueError, KeyError, TypeError) as error:
            raise BadSnapshot(f"this is no whole snapshot of a stream: {error}") from error

    def save(self, path: Path) -> None:
        """Write a file. It appears under its name when it is complete, and replaces an older one at once."""
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(self.to_bytes())
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise

    @classmethod
    def load(cls, path: Path) -> Snapshot:
        """Read a file. Raises BadSnapshot when it is not there, or no snapshot."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BadSnapshot(f"no snapshot can be read at {path}: {error}") from error
        return cls.from_bytes(data)


def _metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file: its header is JSON behind its length as eight bytes."""
    (length,) = struct.unpack_from("<Q", data)
    if length > len(data):
        raise ValueError("it is cut short")
    header = json.loads(data[8 : 8 + length])
    metadata: dict[str, str] = header["__metadata__"]
    return metadata


def capture(state: StreamState, identity: Identity, *, max_bytes: int | None = None) -> Snapshot:
    """Copy a stream to host memory, where it may go on at once. One of more than ``max_bytes`` becomes compact."""
    picture = state.picture
    base, base_fields = state.base_cache.capture()
    sr, sr_fields = picture.sr.capture()
    window, window_fields = state.window.capture()
    groups = {"base": base, "sr": sr, "upsampler": picture.upsampler.capture()}
    groups |= {"decoder": picture.decoder.capture(), "fade": picture.fade.capture()}
    memory = {f"{group}.{name}": t for group, parts in groups.items() for name, t in parts.items()}
    latents = {"window": window}
    if state.last_latents_BCFHW is not None:
        latents["last_latents"] = state.last_latents_BCFHW
    if state.reference_BCFHW is not None:
        latents["reference"] = state.reference_BCFHW
    if state.spread.usual_C is not None:
        latents["spread"] = state.spread.usual_C
    blend = None
    if state.blend is not None:
        latents["blend_source"] = state.blend.source_1XW
        blend = {"groups": state.blend.groups, "done": state.blend.done}
    compact = max_bytes is not None and _bytes_of(memory) + _bytes_of(latents) > max_bytes
    fields = {
        "compact": compact,
        "seed": state.seed,
        "prompt": state.prompt,
        "size": picture.size.name,
        "next_size": state.next_size.name,
        "base": base_fields,
        "sr": sr_fields,
        "window": window_fields,
        "blend": blend,
        "recompute_window": state.recompute_window,
        "spread_settling": state.spread.settling,
        "sr_share": state.sr_share,
        # For a compact one, which has no frames: one that has begun is cut short there.
        "fade_to_come": picture.fade.to_come,
        "dynamic_cache": dataclasses.asdict(state.dynamic_cache),
        **{name: getattr(state, name) for name in _COUNTS},
    }
    tensors = latents if compact else {**memory, **latents}
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    return Snapshot(identity=identity, fields=fields, tensors=copies)


def fill(state: StreamState, snapshot: Snapshot, device: torch.device) -> None:
    """Put a snapshot's content into a new stream of its prompt, size and seed. The prompt's keys and values are left
    as they are, which is where a stream that has begun a blend differs; so is what a compact snapshot does not have.

    Raises:
        BadSnapshot: its parts do not fit the stream.
    """
    fields, tensors, picture = snapshot.fields, snapshot.tensors, state.picture
    try:
        if not snapshot.compact:
            state.base_cache.restore(_group(tensors, "base"), fields["base"])
            picture.sr.restore(_group(tensors, "sr"), fields["sr"])
            picture.upsampler.restore(_group(tensors, "upsampler"), device)
            picture.decoder.restore(_group(tensors, "decoder"), device)
            picture.fade.restore(_group(tensors, "fade"))
        state.window.restore(tensors["window"], **fields["window"])
        last = tensors.get("last_latents")
        state.last_latents_BCFHW = None if last is None else last.to(device, copy=True)
        reference = tensors.get("reference")
        state.reference_BCFHW = None if reference is None else reference.to(device, copy=True)
        usual = tensors.get("spread")
        state.spread = Spread(
            usual_C=None if usual is None else usual.to(device, copy=True),
            settling=fields.get("spread_settling", FIRST_BLOCKS),
        )
        if fields["blend"] is not None:
            target = state.prompt_context.states_1XW
            blend = blend_between(tensors["blend_source"].to(device), target, fields["blend"]["groups"])
            state.blend = dataclasses.replace(blend, done=fields["blend"]["done"])
        state.recompute_window = fields["recompute_window"]
        # Snapshots of older versions kept all of it.
        state.sr_share = fields.get("sr_share", 1.0)
        state.dynamic_cache = DynamicCacheConfig(**fields["dynamic_cache"])
        for name in _COUNTS:
            setattr(state, name, fields[name])
    except (KeyError, TypeError, ValueError, RuntimeError, BadConfig) as error:
        raise BadSnapshot(f"the snapshot's parts do not fit its stream: {error!r}") from error


def _bytes_of(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _group(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{group}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{group}.")
    }
