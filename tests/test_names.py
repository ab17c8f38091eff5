"""What networks, options and affinities are called, without importing them."""

import subprocess
import sys

import pytest
import timm

from contagg import names
from contagg.affinity.registry import list_affinities
from contagg.checkpoints.options import documented
from contagg.errors import UserError


def test_model_names_without_importing_timm() -> None:
    for name in [
        *timm.list_models(),
        "deit_small_pam",
        "resnet50.a1_in1k",
        "vit_base_resnet50d_224",
    ]:
        assert names.unknown_model(name) is None, name
    assert names.unknown_model("conatiner_light") == "unknown model 'conatiner_light'. Did you mean 'container_light'?"
    assert names.unknown_model("hf-hub:some/thing") is not None, "nothing is fetched"
    assert names.unknown_model("xyz") == "unknown model 'xyz'."
    registered, _ = names._of_networks()
    assert set(timm.list_models()) <= registered, "near names are found among all that are registered"


def test_without_timms_source_no_name_is_refused_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names.importlib.util, "find_spec", lambda name: None)
    names._of_networks.cache_clear()
    assert names.unknown_model("xyz") is None
    monkeypatch.undo()
    names._of_networks.cache_clear()


def test_every_documented_option_of_every_network_is_known() -> None:
    for name in timm.list_models():
        assert not [option for option in documented(name) if names.unknown_option(name, option)], name
    assert names.unknown_option("container_light", "embed_dim") is not None


def test_the_words_are_the_registrys() -> None:
    """Of the kinds that are registered with it, in a process where nobody has registered more."""
    program = (
        "from contagg.affinity.registry import _KINDS; print(*(kind.pattern for kind in _KINDS.values()), sep='\\n')"
    )
    shown = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    patterns, examples = names._of_affinities()
    assert patterns == shown.splitlines() and set(examples) <= set(list_affinities())


def test_words_that_may_be_right_are_left_to_who_knows() -> None:
    for word in [*list_affinities()[:20], "attention + dwconv5", "conv3", "mlp/32", "full-conv3", "group-conv3/8"]:
        assert names.unknown_word(word) is None, word
    wrong = {"affinity": ["dwconv3", ["pool3", "attention + sink"], "x"]}
    with pytest.raises(UserError, match=r"^model.options: affinity 'attention \+ sink': 'sink' is not a known"):
        names.require_model("container_light", wrong, "model.name")
    names.require_model("resnet18", {"block": 3}, "model.name")


def test_a_package_that_brings_words_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names.importlib.metadata, "entry_points", lambda group: [group])
    assert names.unknown_word("atention") is None and names.unknown_option("resnet18", "blok") is None
