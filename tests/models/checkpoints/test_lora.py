import pytest
import torch
from torch import Tensor, nn

from ultraflash.models.checkpoints.lora import LiveLora, low_rank_pairs, merged, without_live_lora
from ultraflash.models.errors import MissingWeights


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3, bias=False))


def lora_file(prefix: str = "base_model.model.", infix: str = "") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"0": (4, 6), "2": (6, 3)}
    return {
        f"{prefix}{layer}.lora_{half}{infix}.weight": torch.randn(shape, generator=generator)
        for layer, (width, out) in shapes.items()
        for half, shape in (("A", (2, width)), ("B", (out, 2)))
    }


@pytest.mark.parametrize(
    "checkpoint",
    [
        lora_file(),
        lora_file(infix=".default"),
        lora_file(prefix=""),
        lora_file(prefix="base_model.model.model._fsdp_wrapped_module."),
        {"generator_lora": lora_file(), "step": 3},
    ],
)
def test_pairs_are_found_however_the_file_names_them(checkpoint: dict[str, object]) -> None:
    pairs = low_rank_pairs(checkpoint, source="x")
    assert pairs.keys() == {"0", "2"}
    assert pairs["0"].down_RI.shape == (2, 4) and pairs["0"].up_OR.shape == (6, 2)


def test_live_weights_give_what_merged_ones_give() -> None:
    pairs = low_rank_pairs(lora_file(), source="x")
    plain, live = net(), net()
    lora = LiveLora(live, pairs, alpha=4.0, scale=0.5, source="x")
    plain.load_state_dict(merged(net().state_dict(), pairs, alpha=4.0, scale=0.5, source="x"))
    x = torch.randn(5, 4)
    torch.testing.assert_close(live(x), plain(x))
    by_hand = net()[0].weight + 0.5 * 4.0 / 2 * pairs["0"].up_OR @ pairs["0"].down_RI
    torch.testing.assert_close(plain[0].weight, by_hand)
    assert lora.scale == 0.5


def test_the_scale_of_live_weights_changes_while_they_run() -> None:
    live, x = net(), torch.randn(5, 4)
    lora = LiveLora(live, low_rank_pairs(lora_file(), source="x"), alpha=4.0, scale=1.0, source="x")
    assert not torch.allclose(live(x), net()(x))
    lora.scale = 0.0
    torch.testing.assert_close(live(x), net()(x))


def test_live_weights_can_be_added_in_for_saving() -> None:
    live, plain, x = net(), net(), torch.randn(5, 4)
    LiveLora(live, low_rank_pairs(lora_file(), source="x"), alpha=4.0, scale=0.7, source="x")
    plain.load_state_dict(without_live_lora(live))
    torch.testing.assert_close(plain(x), live(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.lora_B.weight": None}, "the two halves of 0"),
        ({"0.lora_B.weight": torch.ones(6, 3)}, "the two halves of 0"),
        ({"0.lora_magnitude": torch.ones(6)}, "no half of a LoRA"),
    ],
)
def test_a_file_of_something_else_is_refused(change: dict[str, Tensor | None], message: str) -> None:
    tensors = {key: value for key, value in {**lora_file(prefix=""), **change}.items() if value is not None}
    with pytest.raises(MissingWeights, match=message):
        low_rank_pairs(tensors, source="x")
    with pytest.raises(MissingWeights, match="holds no LoRA"):
        low_rank_pairs({}, source="x")


def test_weights_for_another_network_are_refused_merged_or_live() -> None:
    pairs = low_rank_pairs(lora_file(), source="the file")
    other = nn.Sequential(nn.Linear(4, 5))
    with pytest.raises(MissingWeights, match=r"the file is for another network: 0 is \(5, 4\), not \(6, 4\)"):
        merged(other.state_dict(), pairs, alpha=1.0, scale=1.0, source="the file")
    with pytest.raises(MissingWeights, match="no layer 0"):
        LiveLora(other, pairs, alpha=1.0, scale=1.0, source="the file")
