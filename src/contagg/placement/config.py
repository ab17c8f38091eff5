"""What a placement is asked for: a budget, a size, and when its parts begin. Needs no torch."""

import re
from dataclasses import dataclass, make_dataclass
from typing import Annotated, Any, Literal

from contagg.arguments import load
from contagg.config import NonNegative, Positive, Range, require, section
from contagg.errors import UserError
from contagg.tasks import recipes

Unit = Literal["multiply-adds", "ms", "share"]

_BUDGET = re.compile(r"(\d+\.?\d*|\.\d+) ?(k|M|G|T|ms)?")
_PREFIXES = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")
_WANTED = "multiply-adds such as 3.2G or 450M, milliseconds such as 14ms, or a share of all open such as 0.6"


@dataclass(frozen=True)
class Budget:
    """What a network may cost for one image: multiply-adds, milliseconds, or a share of its own multiply-adds.

    >>> Budget.read("3.2G"), Budget.read("14ms"), Budget.read("0.6")
    (Budget(value=3200000000.0, unit='multiply-adds'), Budget(value=14.0, unit='ms'), Budget(value=0.6, unit='share'))
    """

    value: float
    unit: Unit

    @classmethod
    def read(cls, text: str) -> "Budget":
        """UserError for anything else."""
        found = _BUDGET.fullmatch(text.strip())
        if not found or float(found[1]) <= 0 or (found[2] is None and float(found[1]) > 1):
            raise UserError(f"placement.budget must be {_WANTED}, not {text!r}")
        number, unit = float(found[1]), found[2]
        if unit == "ms":
            return cls(number, "ms")
        return cls(number * _PREFIXES[unit], "multiply-adds") if unit else cls(number, "share")


@section("placement.")
class PlacementConfig:
    """Which blocks keep their dynamic affinity, and how that is learnt.

    Attributes:
        budget: What the network may cost for one image: multiply-adds (3.2G, 450M), measured milliseconds (14ms), or a
            share of what it costs, in multiply-adds, with all open (0.6).
        at: The image size that costs are of, 800x1333 in pixels, height first; null takes the run's.
        warmup: Part of the steps in which blocks are open at random, ever fewer, before anything is learnt.
        freeze: Part of the steps after which the choice is made and training goes on with it.
        lr: Of the gates' logits; null takes ten logits over the steps in which they are learnt.
        worth: What all dynamic parts together must lower the loss by, in its own units, and each in proportion to its
            cost, to be kept open even where the budget has room for them.
        kernel_size: Of the kernel that a closed head of plain attention has instead.
    """

    budget: str
    at: str | None = None
    warmup: Annotated[float, Range(0, 1, below=True)] = 0.3
    freeze: Annotated[float, Range(0, 1, above=True, below=True)] = 0.6
    lr: Positive | None = None
    worth: NonNegative = 0.01
    kernel_size: Annotated[int, Range(1)] = 7

    def __post_init__(self) -> None:
        Budget.read(self.budget)
        require(
            self.at is None or bool(_SIZE.fullmatch(self.at)),
            f"placement.at must be height and width in pixels such as 800x1333, not {self.at!r}",
        )
        require(self.kernel_size % 2 == 1, f"placement.kernel_size must be odd, not {self.kernel_size}")
        require(
            self.warmup < self.freeze,
            f"placement.warmup ({self.warmup:g}) must be below placement.freeze ({self.freeze:g})",
        )

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width that costs are of."""
        found = _SIZE.fullmatch(self.at or "")
        return (int(found[1]), int(found[2])) if found else None


def placement_recipes() -> dict[str, str]:
    """Each task's recipe with a section `placement`, as "module:class"."""
    return {name: f"{__name__}:{name}" for name in recipes()}


def __getattr__(name: str) -> Any:
    """The recipe of a task with a section `placement`, which is thereby a part of its run's identity.

    As a budget is required, no run that was made without one can be taken for a placement.
    """
    known = recipes()
    if name not in known:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    recipe: type = load(known[name])
    made = make_dataclass(
        f"{recipe.__name__}WithPlacement",
        [("placement", PlacementConfig)],
        bases=(recipe,),
        frozen=True,
        kw_only=True,
        namespace={"__doc__": f"{recipe.__doc__}    placement: Which blocks stay dynamic.\n"},
    )
    made.__module__ = __name__
    return made


def without_placement(recipe: Any, **model: Any) -> dict[str, Any]:
    """The recipe as `contagg fit` takes it, plain values, with other `model.options`.

    Weights that the run began from are left out: they are of the network with all open, and would not fit.
    """
    from contagg.config import as_dict

    found = as_dict(recipe)
    del found["placement"]
    found["model"] |= {"options": {**found["model"]["options"], **model}, "init_weights": None, "init_ema": False}
    return found
