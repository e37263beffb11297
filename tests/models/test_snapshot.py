from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from small_cascade import small_long_preset
from torch import Tensor

from ultraflash.models.cascade import Cascade
from ultraflash.models.dynamic_cache import DynamicCacheConfig
from ultraflash.models.errors import BadSnapshot, ForeignSnapshot, StreamOffloaded
from ultraflash.models.execution import ExecutionConfig
from ultraflash.models.preset import Preset
from ultraflash.models.snapshot import Snapshot
from ultraflash.models.stream_state import StreamState

Build = Callable[..., Cascade]
Change = Callable[[Cascade, StreamState], None]


def run(cascade: Cascade, state: StreamState, groups: int) -> Tensor:
    return torch.cat([cascade.next_group(state) for _ in range(groups)])


def nothing(cascade: Cascade, state: StreamState) -> None:
    return


def recomputed_prompt(cascade: Cascade, state: StreamState) -> None:
    cascade.set_prompt(state, "a desert at noon", transition="recompute")


def faded_prompt(cascade: Cascade, state: StreamState) -> None:
    cascade.set_prompt(state, "a desert at noon", transition="fade", groups=2)


def kept_prompt(cascade: Cascade, state: StreamState) -> None:
    cascade.set_prompt(state, "a desert at noon", transition="keep")


def long_blend(cascade: Cascade, state: StreamState) -> None:
    cascade.set_prompt(state, "a desert at noon", transition="blend", groups=4)


def blend_within_a_blend(cascade: Cascade, state: StreamState) -> None:
    long_blend(cascade, state)
    cascade.next_group(state)
    cascade.set_prompt(state, "snowy mountains at night", transition="blend", groups=3)


def new_size(cascade: Cascade, state: StreamState) -> None:
    cascade.set_size(state, "1K")


def sparser(cascade: Cascade, state: StreamState) -> None:
    cascade.set_size(state, "1K")
    cascade.set_sr_share(state, 0.5)


def through_disk(cascade: Cascade, state: StreamState, path: Path) -> Snapshot:
    cascade.snapshot(state).save(path)
    return Snapshot.load(path)


@pytest.mark.parametrize("shown", [0, 1], ids=["not yet shown", "shown"])
@pytest.mark.parametrize(
    "change",
    [
        nothing,
        recomputed_prompt,
        faded_prompt,
        kept_prompt,
        long_blend,
        blend_within_a_blend,
        new_size,
        sparser,
    ],
)
def test_a_stream_goes_on_from_disk_in_a_fresh_cascade_bit_for_bit(
    build: Build, preset: Preset, cascade: Cascade, tmp_path: Path, change: Change, shown: int
) -> None:
    state = cascade.open("a calm sea", size="0.5K", seed=1)
    run(cascade, state, 2)
    change(cascade, state)
    if shown:
        run(cascade, state, shown)
    snapshot = through_disk(cascade, state, tmp_path / "stream")
    other = build(preset)
    restored = other.restore(snapshot)
    assert torch.equal(run(other, restored, 3), run(cascade, state, 3))
    assert restored.prompt == state.prompt
    assert restored.frames_emitted == state.frames_emitted
    assert restored.cache_use == state.cache_use


def test_a_stream_of_the_official_layout_goes_on_through_a_change_of_prompt_and_size(build: Build) -> None:
    cascade = build(small_long_preset())
    state = cascade.open("a calm sea", size="0.5K", seed=1)
    run(cascade, state, 3)
    faded_prompt(cascade, state)
    cascade.set_size(state, "2K")
    for _ in range(2):
        restored = cascade.restore(Snapshot.from_bytes(cascade.snapshot(state).to_bytes()))
        assert torch.equal(cascade.next_group(restored), cascade.next_group(state))


def test_half_of_a_stream_and_its_other_half_from_disk_are_the_whole_one(
    build: Build, preset: Preset, cascade: Cascade, tmp_path: Path
) -> None:
    whole = run(cascade, cascade.open("a calm sea", seed=2), 6)
    state = cascade.open("a calm sea", seed=2)
    first = run(cascade, state, 3)
    other = build(preset)
    rest = run(other, other.restore(through_disk(cascade, state, tmp_path / "stream")), 3)
    assert torch.equal(torch.cat((first, rest)), whole)


def test_a_stream_that_has_made_nothing_yet_has_a_snapshot_too(cascade: Cascade) -> None:
    state = cascade.open("a calm sea", seed=2)
    restored = cascade.restore(Snapshot.from_bytes(cascade.snapshot(state).to_bytes()))
    assert torch.equal(run(cascade, restored, 2), run(cascade, state, 2))


def test_small_types_and_dynamic_caches_travel_with_the_stream(build: Build, preset: Preset) -> None:
    rule = DynamicCacheConfig(
        later_steps=2, skip_commit_above=-9.0, shrink_sr_window=True, warmup_groups=1, min_sr_blocks=0
    )
    small = replace(preset, base=replace(preset.base, kv="int8"), sr=replace(preset.sr, kv="int8"))
    writer = build(replace(small, dynamic_cache=rule), dtype=torch.bfloat16)
    state = writer.open("a calm sea", seed=1)
    run(writer, state, 3)
    reader = build(small, dtype=torch.bfloat16)
    restored = reader.restore(writer.snapshot(state))
    assert restored.dynamic_cache == rule
    assert torch.equal(run(reader, restored, 2), run(writer, state, 2))
    assert restored.cache_use == state.cache_use
    assert restored.steps_saved and restored.refreshes_skipped


def test_a_snapshot_stays_as_it_is_while_its_stream_goes_on(cascade: Cascade) -> None:
    state = cascade.open("a calm sea", seed=2)
    run(cascade, state, 2)
    snapshot = cascade.snapshot(state)
    before = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
    ahead = run(cascade, state, 2)
    restored = cascade.restore(snapshot)
    assert torch.equal(run(cascade, restored, 2), ahead)
    assert all(torch.equal(snapshot.tensors[name], tensor) for name, tensor in before.items())


def test_a_snapshot_of_another_cascade_is_refused_with_what_differs(
    build: Build, preset: Preset, cascade: Cascade
) -> None:
    snapshot = cascade.snapshot(cascade.open("a calm sea"))
    others = {
        "preset": build(replace(preset, base=replace(preset.base, window_frames=8))),
        "weights": build(preset, seed=6),
        "dtype": build(preset, dtype=torch.bfloat16),
        "blocks": build(replace(preset, execution=ExecutionConfig(compile=True))),
    }
    for difference, other in others.items():
        with pytest.raises(ForeignSnapshot, match=difference):
            other.restore(snapshot)


def test_what_is_no_snapshot_is_refused(cascade: Cascade, tmp_path: Path) -> None:
    data = cascade.snapshot(cascade.open("a calm sea")).to_bytes()
    renamed = data.replace(b"ultraflash-stream", b"ultraflash-ghosts")
    newer = data.replace(b'"version":"1"', b'"version":"7"')
    assert newer != data
    weights = safetensors.torch.save({"weight": torch.ones(2)})
    for wrong in (b"", data[:-1], data[:100], renamed, newer, weights):
        with pytest.raises(BadSnapshot):
            Snapshot.from_bytes(wrong)
    with pytest.raises(BadSnapshot, match="ghost"):
        Snapshot.load(tmp_path / "ghost")


def test_a_snapshot_whose_tensors_do_not_fit_is_refused(cascade: Cascade) -> None:
    snapshot = cascade.snapshot(cascade.open("a calm sea"))
    tensors = {name: t for name, t in snapshot.tensors.items() if name != "window"}
    with pytest.raises(BadSnapshot, match="window"):
        cascade.restore(replace(snapshot, tensors=tensors))


def test_a_file_that_cannot_be_written_leaves_the_older_one(cascade: Cascade, tmp_path: Path) -> None:
    path = tmp_path / "stream"
    snapshot = cascade.snapshot(cascade.open("a calm sea"))
    snapshot.save(path)
    unwritable = replace(snapshot, tensors={"window": torch.zeros(4, 4).T[:2]})
    with pytest.raises(ValueError, match="contiguous"):
        unwritable.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["stream"]
    assert Snapshot.load(path).fields == snapshot.fields


def tensors_of(thing: object, seen: set[int]) -> Iterator[Tensor]:
    """All tensors that can be reached from an object, but those of parts whose ids are in ``seen``."""
    if id(thing) in seen or isinstance(thing, type | int | float | str | None):
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield thing
        return
    parts: list[object] = [*vars(thing).values()] if hasattr(thing, "__dict__") else []
    parts += [getattr(thing, name) for name in getattr(type(thing), "__slots__", ())]
    parts += [*thing.values()] if isinstance(thing, dict) else []
    parts += [*thing] if isinstance(thing, list | tuple | set) else []
    for part in parts:
        yield from tensors_of(part, seen)


def test_moving_a_stream_moves_every_tensor_of_it(cascade: Cascade) -> None:
    state = cascade.open("a calm sea")
    run(cascade, state, 2)
    long_blend(cascade, state)
    state.to(torch.device("meta"))
    # Frames are in host memory from the start.
    found = list(tensors_of(state, {id(state.picture.fade)}))
    assert len(found) > 20
    assert {tensor.device.type for tensor in found} == {"meta"}


def test_a_paused_stream_makes_no_frames_and_goes_on_bit_for_bit(cascade: Cascade) -> None:
    steady, rested = (cascade.open("a calm sea", seed=4) for _ in range(2))
    run(cascade, steady, 2)
    run(cascade, rested, 2)
    cascade.pause(rested)
    with pytest.raises(StreamOffloaded, match="resume"):
        cascade.next_group(rested)
    cascade.set_prompt(rested, "a desert at noon")
    cascade.resume(rested)
    cascade.set_prompt(steady, "a desert at noon")
    assert torch.equal(run(cascade, rested, 2), run(cascade, steady, 2))


def test_a_compact_snapshot_is_small_and_the_same_latents_go_on(cascade: Cascade) -> None:
    state = cascade.open("a calm sea", size="0.5K", seed=1)
    run(cascade, state, 1)
    whole = cascade.snapshot(state)
    compact = cascade.snapshot(state, max_bytes=whole.nbytes - 1)
    assert not whole.compact and not cascade.snapshot(state, max_bytes=whole.nbytes).compact
    assert compact.compact and compact.nbytes < whole.nbytes / 5
    restored = cascade.restore(Snapshot.from_bytes(compact.to_bytes()))
    # Nothing has left the window yet, so making its keys and values anew makes what was there.
    frames, others = run(cascade, restored, 1), run(cascade, state, 1)
    assert restored.last_latents_BCFHW is not None and state.last_latents_BCFHW is not None
    assert torch.equal(restored.last_latents_BCFHW, state.last_latents_BCFHW)
    assert frames.shape == others.shape
    assert restored.cache_use == state.cache_use
    assert (restored.groups, restored.frames_emitted) == (state.groups, state.frames_emitted)
    # What the later stages remember is of the newest group alone, which shows least at the end.
    assert (frames[-1].float() - others[-1].float()).abs().mean() < 8


def test_a_compact_snapshot_of_a_change_to_come_keeps_it(cascade: Cascade) -> None:
    state = cascade.open("a calm sea", size="0.5K", seed=1)
    run(cascade, state, 1)
    long_blend(cascade, state)
    run(cascade, state, 1)
    new_size(cascade, state)
    restored = cascade.restore(cascade.snapshot(state, max_bytes=0))
    assert restored.next_size.name == "1K"
    assert restored.blend is not None and restored.blend.done == 1
    assert run(cascade, restored, 1).shape == run(cascade, state, 1).shape
    assert restored.blend.done == 2
