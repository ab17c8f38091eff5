"""DeiT with PAM (appendix B) against timm's DeiT-S."""

import timm
import torch

import contagg
from contagg.affinity import TokenMLP

SMALL = {"num_classes": 5, "depth": 2, "embed_dim": 96, "num_heads": 3}


def as_deit(pam: torch.nn.Module) -> dict[str, torch.Tensor]:
    """PAM's state dict under timm's names for DeiT, the static affinities left out."""
    state = {}
    for name, tensor in pam.state_dict().items():
        if ".query." in name:
            names = [name, name.replace("query", "key"), name.replace("affinity.first.query", "value")]
            tensor = torch.cat([pam.state_dict()[part] for part in names])
            name = name.replace("aggregation.affinity.first.query", "qkv")
        name = name.replace("aggregation.output", "proj")
        if ".aggregation." not in name:
            state[name] = tensor
    return state


def test_without_its_static_affinity_it_is_deit() -> None:
    torch.manual_seed(0)
    pam = contagg.create("deit_small_pam", img_size=(48, 80), **SMALL).eval()
    deit = timm.create_model("deit_small_patch16_224", img_size=(48, 80), **SMALL).eval()
    deit.load_state_dict(as_deit(pam))
    images = torch.randn(2, 3, 48, 80)
    assert not torch.allclose(pam(images), deit(images), atol=1e-4)
    for module in pam.modules():
        if isinstance(module, TokenMLP):
            torch.nn.init.zeros_(module.factors[0])
    torch.testing.assert_close(pam(images), deit(images), rtol=1e-4, atol=1e-5)


def test_pam_adds_one_matrix_a_head_and_layer_class_token_included() -> None:
    counts = [
        sum(p.numel() for p in contagg.create(name).parameters())
        for name in ("deit_small_pam", "deit_small_patch16_224")
    ]
    assert counts[0] - counts[1] == 12 * 6 * 197**2


def test_resizing_keeps_what_was_learnt() -> None:
    torch.manual_seed(0)
    pam = contagg.create("deit_small_pam", img_size=64, **SMALL).eval()
    images = torch.randn(1, 3, 64, 64)
    before = pam(images)
    pam.set_input_size((96, 48))
    assert pam(torch.randn(1, 3, 96, 48)).shape == (1, 5)
    pam.set_input_size((64, 64))
    assert pam(images).shape == before.shape
