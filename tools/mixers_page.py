"""docs/mixers.md and its picture, from what is measured: `python -m tools.pictures mixers` writes both."""

import inspect
import re
from collections.abc import Sequence

from contagg.affinity import Site, build_affinity
from contagg.inspect.mixers import CHANNELS, GROUPS, Mixer

INTRODUCTION = """# All mixers

Every word that names an affinity, measured rather than described. Each mixer learnt for {steps} steps to take noise
from parts of one photograph; the picture shows what one token of it gathers from then. Two words join with a plus
(`attention + dwconv5`), and most take a head width (`attention/64`).

![What one token of a photograph gathers from by each of {count} mixers](pictures/mixers.png)

- **From where.** *Some tokens*: nothing beyond a reach, or less than a quarter of A is not 0. *All, through few*: the
  rank of A stays far below the N tokens, whatever they are. *All tokens*: the others.
- **Cost.** How the multiply-adds grow with N, found from the closed forms on grids of 16,384² and 32,768² tokens. The
  last column counts 56 x 56 tokens of {channels} channels, without the value and output projections that all share.
- **Rank.** Singular values of A, on this photograph, above a thousandth of the largest; the median over heads. N is
  {tokens}.
- **One grid.** Learnt for one grid of tokens: `model.set_input_size` makes it serve another.

The photograph is scikit-learn's flower, by dany13 (CC BY 2.0). With one seed and a task of a minute the picture shows
what kind of A each is, not which is better: for that there is `contagg compare`
([the laboratory](laboratory.md)). For your own photograph, and mixers that you have registered:

```
contagg inspect mixers photo.jpg -o mixers.png --save mixers.json
```
"""

TITLES = {
    ("dynamic", "some"): "A follows the image, from some tokens",
    ("dynamic", "few"): "A follows the image, from all tokens through few",
    ("dynamic", "all"): "A follows the image, from all tokens",
    ("static", "some"): "One A for all images, from some tokens",
    ("static", "few"): "One A for all images, from all tokens through few",
    ("static", "all"): "One A for all images, from all tokens",
}


def page(mixers: Sequence[Mixer], steps: int) -> str:
    """The page's text: a table for each family that there is."""
    tokens = mixers[0].row.numel()
    parts = [INTRODUCTION.format(steps=steps, count=len(mixers), channels=CHANNELS, tokens=tokens)]
    for family, title in TITLES.items():
        rows = [_row(mixer) for mixer in mixers if mixer.family == family]
        if rows:
            head = "| word | its A | reach | rank | cost | multiply-adds |\n|---|---|---|---|---|---|"
            parts.append("\n".join([f"## {title}\n", head, *rows]) + "\n")
    made = "Written by `python -m tools.pictures mixers`; do not edit. " + f"Groups: {', '.join(GROUPS.values())}."
    return "\n".join([*parts, f"<!-- {made} -->\n"])


def _row(mixer: Mixer) -> str:
    reach = "" if mixer.reach is None else str(mixer.reach)
    rank = f"{mixer.rank} of {mixer.through}" if mixer.family[1] == "few" else str(mixer.rank)
    law = mixer.law.replace("^2", "²").replace("^1.5", "^1.5^") if mixer.law != "0" else "adds only"
    law = law.replace("^1.5^", "<sup>1.5</sup>")
    grid = "; one grid" if mixer.one_grid else ""
    cost = f"{mixer.multiply_adds / 1e6:,.1f} M" if mixer.multiply_adds else ""
    return f"| `{mixer.word}` | {what(mixer.word)}{grid} | {reach} | {rank} | {law} | {cost} |"


def what(word: str) -> str:
    """What the kind's docstring says of its A, to the end of the first sentence, in Markdown's letters."""
    kind = type(build_affinity(word, Site(channels=CHANNELS, grid=(7, 7))))
    paragraph = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].replace("`", "").split())
    sentence = re.split(r"(?<=[\w)\]])[.;] |\.$", paragraph)[0]
    return re.sub(r"([|*_<>\[\]])", r"\\\1", sentence)
