from copy import deepcopy

import pytest
import torch
from torch import nn

from ultraflash.models.errors import BadConfig
from ultraflash.training.optimizers import make_optimizers


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.head = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x).relu()
        return self.head(x)


def optimizers(module: nn.Module, muon_rate: float | None = 2e-2):
    return make_optimizers(
        module, learning_rate=1e-2, betas=(0.9, 0.99), weight_decay=0.0, muon_rate=muon_rate
    )


def train_step(module: nn.Module, optimizer, seed: int) -> float:
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(seed))
    loss = (module(x) - x.sum(1, keepdim=True)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def test_muon_takes_the_matrices_of_blocks_and_adamw_everything_else_once() -> None:
    module = Blocks()
    muon, adamw = (group["params"] for group in optimizers(module).param_groups)
    assert [p.shape for p in muon] == [block.weight.shape for block in module.blocks]
    assert {id(p) for p in muon}.isdisjoint(id(p) for p in adamw)
    assert len(muon) + len(adamw) == len(list(module.parameters()))


def test_a_muon_update_of_a_matrix_is_close_to_orthogonal() -> None:
    module = Blocks()
    weight = module.blocks[0].weight
    before = weight.detach().clone()
    optimizer = optimizers(module)
    weight.grad = torch.randn(8, 1) @ torch.randn(1, 8) + 0.1 * torch.randn(8, 8)
    optimizer.step()
    update = torch.linalg.svdvals((weight - before).detach())
    gradient = torch.linalg.svdvals(weight.grad)
    assert gradient[0] / gradient[5] > 8
    assert update[0] / update[5] < 3


def test_rates_scale_from_their_own_peaks() -> None:
    optimizer = optimizers(Blocks())
    optimizer.scale_rates(0.5)
    optimizer.scale_rates(0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(5e-3), pytest.approx(2.5e-3)]


def test_a_restored_state_goes_on_alike_under_the_new_settings() -> None:
    first, second = Blocks(), Blocks()
    used = optimizers(first)
    for seed in range(3):
        train_step(first, used, seed)
    second.load_state_dict(first.state_dict())
    fresh = optimizers(second, muon_rate=3e-2)
    fresh.load_state_dict(deepcopy(used.state_dict()))
    assert fresh.param_groups[0]["lr"] == pytest.approx(3e-2)
    fresh.param_groups[0]["lr"] = 2e-2
    assert [train_step(first, used, s) for s in range(3, 6)] == [
        train_step(second, fresh, s) for s in range(3, 6)
    ]


def test_a_state_of_another_choice_is_refused_by_name() -> None:
    plain = optimizers(Blocks(), muon_rate=None)
    with pytest.raises(BadConfig, match="muon_rate"):
        plain.load_state_dict(optimizers(Blocks()).state_dict())


def test_muon_without_blocks_is_refused() -> None:
    with pytest.raises(BadConfig, match="repeated blocks"):
        optimizers(nn.Linear(3, 3))


@pytest.mark.parametrize("adjust", [None, "match_rms_adamw"])
def test_matrices_taken_together_are_updated_as_torch_does_one_by_one(
    adjust: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not above: an older torch has no Muon to extend.
    from ultraflash.training import stacked_muon
    from ultraflash.training.stacked_muon import StackedMuon

    # torch's own takes bfloat16 everywhere.
    monkeypatch.setattr(stacked_muon, "fastest_dtype", lambda _: torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 8), (16, 8), (8, 16), (8, 8), (16, 8)]
    ours = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    torchs = [nn.Parameter(matrix.detach().clone()) for matrix in ours]
    settings = {"lr": 2e-2, "weight_decay": 0.1, "adjust_lr_fn": adjust}
    stacked, single = StackedMuon(ours, **settings), torch.optim.Muon(torchs, **settings)
    for step in range(4):
        if step == 2:
            # What torch's has kept goes on here as well.
            stacked.load_state_dict(deepcopy(single.state_dict()))
        # One of them has no gradient, as a network has not in the other's turns of `few_step`.
        for mine, other in zip(ours[:-1], torchs[:-1], strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        stacked.step()
        single.step()
    torch.testing.assert_close(ours, torchs, rtol=0, atol=5e-5)
    mine, other = stacked.state_dict(), single.state_dict()
    assert mine["param_groups"] == other["param_groups"]
    torch.testing.assert_close(mine["state"], other["state"])


def test_an_update_in_float32_is_that_in_bfloat16_but_for_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    from ultraflash.training import stacked_muon

    matrices = torch.randn(3, 24, 16, generator=torch.Generator().manual_seed(0))
    updates = []
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(stacked_muon, "fastest_dtype", lambda _, dtype=dtype: dtype)
        updates.append(stacked_muon.orthogonal(matrices, (3.4445, -4.7750, 2.0315), 5, 1e-7))
    assert [update.dtype for update in updates] == [torch.float32, torch.bfloat16]
    torch.testing.assert_close(updates[1].float(), updates[0], atol=3e-2, rtol=0)
