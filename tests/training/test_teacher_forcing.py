from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ultraflash.models.dit import CausalDiT
from ultraflash.models.preset import load_preset
from ultraflash.models.schedule import add_noise
from ultraflash.training.base import ClipBatch, cut_windows, splice_prompts
from ultraflash.training.latents import LatentsBatch
from ultraflash.training.recipes import DEBUG_PRESET
from ultraflash.training.rollout import Roller, block_estimate, sample_blocks, sample_few_steps
from ultraflash.training.super_resolution import degrade
from ultraflash.training.teacher_forcing import teacher_forced_output

BASE = load_preset(DEBUG_PRESET).base


def network() -> CausalDiT:
    torch.manual_seed(0)
    return CausalDiT(BASE.dit).eval()


def clip(frames: int = 9) -> Tensor:
    return torch.randn(2, 32, frames, 2, 2, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_a_teacher_forced_pass_equals_what_a_stream_computes_block_by_block() -> None:
    net, clean, text = network(), clip(), torch.randn(2, 64, 384)
    noise, sigma = torch.randn_like(clean), torch.tensor([[0.9, 0.5, 0.7], [0.2, 0.6, 1.0]])
    output = teacher_forced_output(net, clean, noise, sigma, text, block_frames=3, window_blocks=3)
    context = net.encode_text(text)
    stream = Roller(net, BASE, text)
    for block in range(3):
        part = slice(3 * block, 3 * block + 3)
        noisy = add_noise(clean[:, :, part], noise[:, :, part], sigma[:, block].view(2, 1, 1, 1, 1))
        streamed = block_estimate(net, BASE, noisy, sigma[:, block], context, stream.positions, stream.past())
        torch.testing.assert_close(output[:, :, part], streamed, atol=1e-4, rtol=1e-4)
        stream.commit(clean[:, :, part])


def test_a_compiled_pass_and_its_gradient_are_those_of_the_plain_one() -> None:
    net, clean, text = network(), clip(), torch.randn(2, 64, 384)
    noise, sigma = torch.randn_like(clean), torch.rand(2, 3)

    def gradients(forward: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        output = forward(net, clean, noise, sigma, text, block_frames=3, window_blocks=3)
        used = [parameter for name, parameter in net.named_parameters() if "seams" not in name]
        return (output, *torch.autograd.grad(output.square().sum(), used, allow_unused=True))

    compiled = torch.compile(teacher_forced_output, dynamic=False, fullgraph=True, backend="aot_eager")
    for made, wanted in zip(gradients(compiled), gradients(teacher_forced_output), strict=True):
        torch.testing.assert_close(made, wanted, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_a_block_in_training_sees_what_a_stream_sees_when_the_window_is_full_too() -> None:
    net, text = network(), torch.randn(2, 64, 384)
    stream, sigma = Roller(net, BASE, text), torch.full((2,), 0.6)
    for block in clip(15).split(3, dim=2):
        trained = block_estimate(net, BASE, block, sigma, stream.text, stream.positions, stream.past())
        torch.testing.assert_close(trained, stream.clean(block, 0.6), atol=1e-4, rtol=1e-4)
        stream.commit(block)


def test_a_block_has_no_gradient_from_blocks_after_it() -> None:
    net, text = network(), torch.randn(2, 64, 384)
    clean = clip().requires_grad_()
    output = teacher_forced_output(
        net, clean, torch.zeros_like(clean), torch.full((2, 3), 0.5), text, block_frames=3, window_blocks=3
    )
    output[:, :, 3:6].square().sum().backward()
    touched = clean.grad.abs().sum(dim=(0, 1, 3, 4)) > 0
    assert touched.tolist() == [True] * 6 + [False] * 3


def test_samplers_return_clips_of_whole_blocks() -> None:
    net, text = network(), torch.randn(2, 64, 384)
    assert sample_blocks(net, BASE, text, blocks=2, steps=2, guidance=2.0, seed=0).shape == (2, 32, 6, 2, 2)
    first, again = (sample_few_steps(net, BASE, text, blocks=4, seed=3) for _ in range(2))
    assert first.shape == (2, 32, 12, 2, 2)
    assert torch.equal(first, again)
    assert first.isfinite().all()


def test_a_roll_out_limits_the_spread_of_each_of_its_streams() -> None:
    stream = Roller(network(), replace(BASE, spread_limit=1.05), torch.zeros(2, 64, 384))
    usual = torch.randn(stream.shape, generator=torch.Generator().manual_seed(0))
    wild = usual * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1, 1)
    assert torch.equal(stream.limited(usual), usual)
    stream.limited(usual)
    calm, tamed = stream.limited(wild)
    torch.testing.assert_close(calm, wild[0])
    torch.testing.assert_close(tamed.std((1, 2, 3)), 1.05 * usual[1].std((1, 2, 3)))


def test_windows_inside_a_clip_give_their_first_block_no_loss() -> None:
    clips = LatentsBatch(
        latent_BCTHW=clip(12),
        object_BTHW=clip(12)[:, 0],
        text_BLD=torch.zeros(2, 64, 384),
        captions=("a", "b"),
    )
    seen = set()
    for seed in range(20):
        batch = cut_windows(clips, 9, 3, torch.Generator().manual_seed(seed))
        for window, weight, whole in zip(
            batch.latent_BCFHW, batch.weight_BK, clips.latent_BCTHW, strict=True
        ):
            start = next(s for s in range(4) if torch.equal(window, whole[:, s : s + 9]))
            assert weight.tolist() == [float(start == 0), 1.0, 1.0]
            seen.add(start)
        # The clip's objects here are its first channel.
        assert torch.equal(batch.object_BFHW, batch.latent_BCFHW[:, 0])
    assert seen == {0, 1, 2, 3}


def test_spliced_clips_learn_from_what_follows_the_cut_alone() -> None:
    batch = ClipBatch(
        latent_BCFHW=clip(),
        object_BFHW=clip()[:, 0],
        text_BLD=torch.zeros(2, 64, 384),
        weight_BK=torch.ones(2, 3),
    )
    spliced = splice_prompts(batch, 1.0, 3, torch.Generator().manual_seed(0))
    for i in range(2):
        before = int((spliced.weight_BK[i] == 0).sum())
        assert before in (1, 2)
        assert torch.equal(
            spliced.latent_BCFHW[i, :, : 3 * before], batch.latent_BCFHW[i - 1, :, : 3 * before]
        )
        assert torch.equal(spliced.latent_BCFHW[i, :, 3 * before :], batch.latent_BCFHW[i, :, 3 * before :])
    assert torch.equal(splice_prompts(batch, 0.0, 3, torch.Generator()).latent_BCFHW, batch.latent_BCFHW)


def test_degraded_latents_differ_but_stay_close() -> None:
    latent = clip()
    torch.manual_seed(0)
    assert torch.equal(degrade(latent, noise=0.0, blur=0.0), latent)
    marred = degrade(latent, noise=0.2, blur=0.0) - latent
    assert 0 < marred.std() < 0.21
    assert degrade(latent, noise=0.0, blur=1.0).std() < latent.std()
