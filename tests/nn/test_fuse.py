"""The inference form answers as the network does: every registered network and every kind of mixture."""

import pytest
import timm
import torch
from timm.layers import LayerScale, freeze_batch_norm_2d
from torch import nn

import contagg
from contagg.affinity.mixture import FixedGate
from contagg.errors import UserError
from contagg.export.program import export_program
from contagg.models import CONFIGS
from contagg.nn.aggregation import Aggregation
from contagg.nn.fuse import Projection, SlicedMlp

SIZE = (64, 96)
MIXTURES = [
    ("dwconv3 + dwconv5/8", "free/head"),
    ("dwconv5 + dwconv3", "sigmoid"),
    ("attention + dwconv3/16", "free/head"),
    ("dwconv3 + attention", "sigmoid/head"),
    ("attention/16 + token mlp", "free/head"),
    ("token mlp/16 rank 5 + dwconv3", "free/head"),
    ("attention + token mlp/8", "sigmoid"),
    ("attention + attention/16", "free"),
    ("attention + dwconv5", "sum"),
    ("group-conv3/4", "free"),
]


def drawn(name: str, **arguments: object) -> nn.Module:
    """A network in eval mode whose norms, gates and kernels are all far from where they start."""
    torch.manual_seed(3)
    if name == "vmamba_like":  # a scan is a product of three functions of the tokens: norms far off let it grow
        arguments = {"depths": (1, 1, 1, 1)} | arguments
    model = contagg.create(name, num_classes=11, img_size=SIZE, drop_path_rate=0.2, **arguments)
    for parameter_name, parameter in model.named_parameters():
        if ".gate." in parameter_name:
            nn.init.uniform_(parameter, -0.7, 1.3)
        elif parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.4, 2.0)
    return model


def assert_same_answers(model: nn.Module, tolerance: float) -> None:
    images = torch.randn(2, 3, *SIZE).to(next(model.parameters()).dtype)
    fused = contagg.fuse(model)
    model.eval()
    with torch.no_grad():
        expected, got = model(images), fused(images)
        assert (got - expected).norm() < tolerance * expected.norm()
        expected, got = model.forward_features(images), fused.forward_features(images)
        assert (got - expected).norm() < tolerance * expected.norm()


def test_layer_scale_and_the_norms_of_overlapping_embeddings_fold_away() -> None:
    model = drawn("container_light_tiny", embedding="overlapping", layer_scale=0.3, activation="hard_swish").double()
    assert_same_answers(model, 1e-12)
    left = [type(module) for module in contagg.fuse(model).modules()]
    assert LayerScale not in left and left.count(nn.BatchNorm2d) == 1  # the last, which forward_features promises


@pytest.mark.parametrize("placement", ["res_post", "single"])
@pytest.mark.parametrize("affinity", ["attention + dwconv5", "attention + token mlp", "cross scan4"])
def test_norms_fold_away_wherever_they_stand(placement: str, affinity: str) -> None:
    model = drawn("container_light_tiny", norm_placement=placement, layer_scale=0.3, affinity=affinity).double()
    assert_same_answers(model, 1e-11)
    assert [type(module) for module in contagg.fuse(model).modules()].count(nn.BatchNorm2d) == 1  # the last


@pytest.mark.parametrize("placement", ["pre", "res_post"])
def test_norms_of_another_kind_stay_and_nothing_passes_them(placement: str) -> None:
    model = drawn("container_light_tiny", norm_placement=placement, layer_scale=0.3).double().eval()
    assert_same_answers(freeze_batch_norm_2d(model), 1e-11)


NAMES = [*CONFIGS, "vit_tiny_mixer", "deit_small_pam"]
OURS = {"container", "container_light", "container_next", "deit_small_pam"}


# float64 below is the closer look at each; what fp32 rounds is asked of all by -m slow.
@pytest.mark.parametrize("name", [n if n in OURS else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_answers_in_fp32(name: str) -> None:
    assert_same_answers(drawn(name), 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_answers_in_float64(name: str) -> None:
    assert_same_answers(drawn(name).double(), 1e-10)


@pytest.mark.parametrize(("word", "gate"), MIXTURES)
def test_every_mixture_and_gate(word: str, gate: str) -> None:
    assert_same_answers(drawn("container_light_tiny", affinity=word, gate=gate).double(), 1e-10)


def test_nothing_is_left_of_what_was_folded() -> None:
    model = drawn("container_light_tiny")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fused = contagg.fuse(model.train())
    assert model.training and not fused.training
    assert not any(isinstance(m, timm.layers.DropPath) or getattr(m, "residual", False) for m in fused.modules())
    assert [name for name, m in fused.named_modules() if isinstance(m, nn.BatchNorm2d)] == ["norm"]
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_static_mixtures_become_one_kernel_and_gates_leave_static_affinities() -> None:
    two = contagg.fuse(drawn("container_light_tiny", affinity="dwconv3 + dwconv5/8", gate="free/head"))
    affinities = [m.affinity for m in two.modules() if isinstance(m, Aggregation)]
    assert {(a.kernel_size, a.head_width, len(a.weight) == a.heads) for a in affinities} == {(5, 1, True)}
    mixed = contagg.fuse(drawn("container_tiny", affinity="attention + token mlp/8", gate="sigmoid"))
    sums = [m for m in mixed.modules() if isinstance(m, FixedGate)]
    assert len(sums) == 5 and all(m.beta is None and len(m.alpha) == 1 for m in sums)


def test_features_and_other_sizes_and_twice() -> None:
    images = torch.randn(1, 3, 83, 47)
    model = drawn("container_light_tiny", features_only=True).eval()
    with torch.no_grad():
        for got, expected in zip(contagg.fuse(contagg.fuse(model))(images), model(images), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_slices_of_tokens_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden_widths = []
    model = drawn("container_light_tiny").double()
    model.eval()
    images = torch.randn(3, 3, 37, 53, dtype=torch.float64)
    monkeypatch.setattr(SlicedMlp, "HIDDEN", 10_000)
    fused = contagg.fuse(model)
    first = fused.stages[0].blocks[0].mlp
    first.act.register_forward_hook(lambda module, inputs, output: hidden_widths.append(len(output)))
    with torch.no_grad():
        torch.testing.assert_close(fused(images), model(images), rtol=1e-10, atol=1e-10)
    assert hidden_widths == [78, 78, 78, 78, 78, 30]


@pytest.mark.parametrize("batch", [1, 3])
def test_a_projection_is_the_matrix_product_in_either_form(batch: int) -> None:
    linear = nn.Linear(11, 7).double()
    tokens = torch.randn(batch, 13, 11, dtype=torch.float64)
    projection = Projection(linear)
    for got in (projection(tokens), torch.compile(projection, backend="eager")(tokens)):
        torch.testing.assert_close(got, linear(tokens), rtol=1e-12, atol=1e-12)
        assert got.stride() == linear(tokens).stride()
    torch.testing.assert_close(projection(tokens[0]), linear(tokens[0]), rtol=1e-12, atol=1e-12)


def test_compiled_for_a_cpu_projections_are_convolutions_and_matrix_products_in_an_exported_graph() -> None:
    graphs = []

    def keep(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    model = drawn("container_light_tiny").eval()
    fused = contagg.fuse(model)
    images = torch.randn(2, 3, *SIZE)
    torch._dynamo.reset()
    with torch.no_grad():
        torch.testing.assert_close(
            torch.compile(fused, backend=keep, fullgraph=True)(images), model(images), rtol=1e-4, atol=1e-5
        )
    assert sum(node.target is nn.functional.linear for node in graphs[0].graph.nodes) == 1  # the head's
    projections = sum(isinstance(module, Projection) for module in fused.modules())
    targets = [str(node.target) for node in export_program(model, (3, *SIZE)).graph.nodes]
    assert targets.count("aten.linear.default") == projections


@pytest.mark.parametrize("name", ["container_tiny", "container_light_tiny"])
def test_padded_batches(name: str) -> None:
    model = drawn(name).double().eval()
    mask = torch.zeros(2, *SIZE, dtype=torch.bool)
    mask[0, :50, :71] = mask[1, :64, :33] = True
    images = torch.randn(2, 3, *SIZE, dtype=torch.float64) * mask[:, None]
    for got, expected in zip(
        contagg.fuse(model).forward_intermediates(images, intermediates_only=True, mask=mask),
        model.forward_intermediates(images, intermediates_only=True, mask=mask),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_another_network_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="ResNet has none of this package's blocks"):
        contagg.fuse(timm.create_model("resnet18"))
