"""What the page says: each number and kind of matrix in words that need no mouse, and names as long as they come."""

from dataclasses import replace

import torch
from made_layers import GRID, N, layer
from opened_pages import Browser, page_with

from contagg.affinity.forms import Dense
from contagg.inspect.forms import RecordedLayer

SIZE = (24, 40)
TEXT = "[...document.querySelectorAll(arguments[0])].map((each) => each.innerText).join(' ')"


def of(kind: str, name: str) -> RecordedLayer:
    made = layer(Dense(matrix=torch.full((1, N, N), 1 / N)), grid=GRID)
    return replace(made, name=name, label=name, terms=(replace(made.terms[0], name=kind),))


def test_numbers_and_kinds_are_explained(browser: Browser) -> None:
    browser.open(page_with([of("dynamic", "a"), of("linearised", "b")], SIZE), width=400)
    told = browser(TEXT, ".told")
    heads = browser("[...document.querySelectorAll('.numbers thead th')].map((each) => each.innerText)")
    assert heads[0] == "layer" and len(heads) == 8 and all(head in told for head in heads[1:])
    assert "0: one token; 1: all tokens alike" in told and "ten times" in told
    key = browser(TEXT, ".key")
    assert "dynamic: depends on the image" in key and "linearised: an MLP over tokens, by its slope" in key
    assert browser("document.documentElement.scrollWidth") <= 400


def test_a_query_that_lies_nowhere_has_no_mark_on_the_photograph(browser: Browser) -> None:
    detector = replace(of("dynamic", "cross"), targets=tuple(str(number) for number in range(N)))
    browser.open(page_with([detector], SIZE))
    picture = "[...document.querySelector('.colour').getContext('2d').getImageData(0, 0, 96, 57).data].join()"
    while not browser("contagg.idle()"):
        pass
    marked = browser(picture)
    browser("contagg.hover(0.1, 0.1)")
    while not browser("contagg.idle()"):
        pass
    assert browser(picture) == marked


def test_a_long_name_hides_no_number(browser: Browser) -> None:
    browser.open(page_with([of("dynamic", "x" * 3000), of("dynamic", "b")], SIZE))
    browser("contagg.page.choose(contagg.page.panels[0], 0) ?? 0")
    assert browser("document.querySelector('.numbers td').getBoundingClientRect().right") < 700
    assert browser("document.querySelector('.head').offsetHeight") < 120
    assert browser("document.querySelector('.photo').clientWidth") > 400
    assert browser("document.documentElement.scrollWidth") <= 1200
