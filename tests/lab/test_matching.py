"""Arms of equal cost: the search on costs that are known, and two words in a network."""

from pathlib import Path

import pytest
from laboratory import RECIPE, written

from contagg.errors import UserError
from contagg.lab.arms import read_arms
from contagg.lab.making import Opener
from contagg.lab.matching import CLOSE, Dims, match, nearest_dims
from contagg.lab.sizes import size


def cost(dims: Dims) -> int:
    return sum(weight * width**2 for weight, width in zip((16, 4, 2, 1), dims, strict=True))


@pytest.mark.parametrize("factor", [0.21, 0.5, 0.97, 1.7, 5.3])
def test_widths_are_scaled(factor: float) -> None:
    start = (32, 64, 128, 192)
    found = nearest_dims(start, cost, round(cost(start) * factor))
    assert abs(found.off) <= CLOSE and found.off == cost(found.dims) / round(cost(start) * factor) - 1
    scale = found.dims[-1] / start[-1]
    assert all(abs(width - scale * other) <= 13 for width, other in zip(found.dims, start, strict=True))


def test_what_costs_the_same_stays() -> None:
    assert nearest_dims((33, 65, 129, 193), cost, cost((33, 65, 129, 193))).dims == (33, 65, 129, 193)


def test_heads_are_kept() -> None:
    """Widths that heads of 32 do not divide are refused: the nearest of those that they do is told."""

    def headed(dims: Dims) -> int:
        if any(width % 32 for width in dims):
            raise UserError("heads")
        return cost(dims)

    target = round(1.13 * cost((32, 64, 128, 192)))
    found = nearest_dims((32, 64, 128, 192), headed, target)
    assert all(width % 32 == 0 for width in found.dims)
    assert abs(found.off) < abs(cost((32, 64, 128, 192)) / target - 1)


@pytest.mark.parametrize("by", ["macs", "params"])
def test_networks_of_equal_cost(by: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms = read_arms(["-c", written(tmp_path)], [("affinity", ["dwconv3"]), ("affinity", ["attention/8 + dwconv5"])])
    opener = Opener(arms.recipe)
    matched = match(arms, opener, by)
    told = capsys.readouterr().out
    assert not matched["dwconv3"].changes and "dwconv3: embed_dims [8, 8, 16, 32], +0.0 %"[:-4] in told
    dims = matched["attention/8 + dwconv5"].changes["model.options.embed_dims"]
    assert all(width % 8 == 0 for width in dims)
    sizes = [size(opener.job(arm.recipe)) for arm in matched.arms]
    one, other = ((of.multiply_adds if by == "macs" else of.parameters) for of in sizes)
    plain = size(opener.job(arms["attention/8 + dwconv5"].recipe))
    before = plain.multiply_adds if by == "macs" else plain.parameters
    assert abs(other / one - 1) <= abs(before / one - 1)
    assert f"{other / one - 1:+.1%} {by}" in told and ("the nearest" in told) == (abs(other / one - 1) > CLOSE)


def test_a_network_without_widths(tmp_path: Path) -> None:
    recipe = RECIPE | {"model": {"name": "container_light_tiny", "image_size": 16, "channels": 1}}
    options = ["model.name=resnet18", "model.drop_path=0"]
    arms = read_arms(["-c", written(tmp_path, recipe)], [("arm", ["other", *options])])
    with pytest.raises(UserError, match="arm 'other': --match scales embed_dims, or embed_dim of a plain transformer"):
        match(arms, Opener(arms.recipe), "macs")


@pytest.mark.parametrize("by", [pytest.param("macs", marks=pytest.mark.slow), "params"])
def test_plain_transformers_of_equal_cost(by: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ours and timm's, whose heads stay as many."""
    model = {"name": "vit_tiny_mixer", "image_size": 32, "channels": 1, "options": {"affinity": "attention"}}
    given = [("affinity", [word]) for word in ("dwconv5", "attention rope")]
    theirs = ["model.name=vit_tiny_patch16_224", "model.options={embed_dim: 96, depth: 12}", "model.drop_path=0"]
    arms = read_arms(["-c", written(tmp_path, RECIPE | {"model": model})], [*given, ("arm", ["theirs", *theirs])])
    opener = Opener(arms.recipe)
    matched = match(arms, opener, by)
    target = size(opener.job(arms.recipe))
    assert matched["attention rope"].changes == {"model.options.affinity": "attention rope"}
    for name in ("dwconv5", "theirs"):
        arm, found = matched[name], size(opener.job(matched[name].recipe))
        off = (found.multiply_adds / target.multiply_adds if by == "macs" else found.parameters / target.parameters) - 1
        assert arm.changes["model.options.embed_dim"] % 3 == 0 and abs(off) < 0.02
    assert "dwconv5: embed_dim 2" in capsys.readouterr().out
