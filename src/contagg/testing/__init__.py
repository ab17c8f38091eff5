"""Whether a kind of affinity is whole: to mixers what scikit-learn's `check_estimator` is to estimators."""

import torch

from contagg.affinity.registry import Factory, Site
from contagg.errors import UserError, printable
from contagg.testing import networks, numbers
from contagg.testing.case import GRID, Case, Skipped

CHECKS = (
    numbers.attributes,
    numbers.values,
    numbers.gradients,
    numbers.rows_and_columns,
    numbers.form,
    numbers.dependence,
    numbers.reach,
    numbers.prefix_tokens,
    numbers.padded_batch,
    numbers.grids,
    numbers.mixture,
    numbers.fold,
    numbers.merge,
    numbers.multiply_adds,
    numbers.memory,
    numbers.autocast,
    numbers.device,
    numbers.state_dict,
    networks.training,
    networks.fuse,
    networks.statistics,
    networks.figures,
    networks.compile_without_breaks,
    networks.export,
    networks.onnx,
)


class FailedChecks(AssertionError):
    """Which checks failed.

    Attributes:
        failures: What each found, by the check's name.
    """

    def __init__(self, kind: str, failures: dict[str, str]) -> None:
        self.failures = failures
        lines = [f"  {name}: {found}" for name, found in failures.items()]
        super().__init__("\n".join([f"{kind} fails {len(failures)} of {len(CHECKS)} checks", *lines]))


def check_affinity(factory: str | Factory, channels: int = 64) -> dict[str, str]:
    """Check that a kind does all that the package asks of one; takes some seconds, on the CPU.

    What `forward` gives is held to the matrix of `rows`, in values and gradients, in float64, on grids of prime and
    unequal sides; and so is everything else that stands on a kind: padded batches, mixtures, the inference form, the
    statistics and figures, autocast, weights files, compilation, and export.

    Args:
        factory: Makes the affinity for a `Site`; or a word that is registered.
        channels: Of the sites, 4 or more.

    Returns:
        What was skipped, by the check's name, and why.

    Raises:
        FailedChecks: with what each failed check found.
        UserError: there is no such word, or it cannot be made for so many channels.

    Examples:
        >>> from contagg.affinity import DepthwiseConv
        >>> from contagg.testing import check_affinity
        >>> sorted(check_affinity(lambda site: DepthwiseConv(site.channels, 5)))  # it serves no class tokens
        ['prefix_tokens']
    """
    skipped, failures = {}, {}
    case = _case(factory, channels)
    for check in CHECKS:
        torch.manual_seed(0)
        try:
            check(case)
        except Skipped as reason:
            skipped[check.__name__] = str(reason)
        except Exception as error:  # whatever a stranger's code raises is what the check found
            first = next(iter(str(error).strip().splitlines()), "")
            failures[check.__name__] = printable(f"{type(error).__name__}: {first}"[:400])
    if failures:
        raise FailedChecks(case.name, failures)
    return skipped


def _case(factory: str | Factory, channels: int) -> Case:
    """A kind that can be made. UserError otherwise: one line, where each check would say the same."""
    case = Case(factory, channels)
    if channels < 4:
        raise UserError(f"check_affinity: {channels} channels; 4 at least, so that there can be several heads")
    try:
        case.make(Site(channels=channels, grid=GRID))
    except UserError as error:
        raise UserError(f"check_affinity(..., channels={channels}): {error}") from error
    return case
