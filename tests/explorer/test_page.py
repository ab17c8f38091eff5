"""The page in a browser: its numbers are torch's, nothing leaves it, and hands, keys and eyes reach everything."""

import http.server
import json
import statistics
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from made_forms import FORMS, GRID, N
from opened_pages import Browser, page_with
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from torch import Tensor

from contagg.affinity.bands import Band
from contagg.affinity.forms import Form
from contagg.affinity.scores import Scores
from contagg.explorer import packing
from contagg.inspect.forms import RecordedLayer, Term, Unshown

ONE = torch.ones(1)
SIZE = (24, 40)


def layer(name: str, *terms: tuple[str, Tensor, Form], **options: object) -> RecordedLayer:
    return RecordedLayer(
        name=name,
        label=options.pop("label", name),  # type: ignore[arg-type]
        grid=options.pop("grid", GRID),  # type: ignore[arg-type]
        terms=tuple(Term(name=kind, weight=weight, form=form) for kind, weight, form in terms),
        **options,  # type: ignore[arg-type]
    )


def attention(count: int, heads: int = 2, width: int = 3) -> Scores:
    place = torch.arange(count)[None]
    query, key = (torch.randn(1, heads, count, width) for _ in range(2))
    return Scores(query=query, key=key, query_place=place, key_place=place, shape=(count, count), scale=width**-0.5)


def float32(form: Form) -> Form:
    return packing.rounded(form)


def every_form() -> tuple[list[RecordedLayer], list[Form]]:
    torch.manual_seed(0)
    forms, layers = [], []
    for number, made in enumerate(FORMS):
        form, _ = (made.values[0] if hasattr(made, "values") else made)()
        prefix = form.shape[1] - N
        others = {"target_grid": (1, form.shape[0])} if form.shape[0] < N else {"target_prefix": prefix}
        forms.append(form)
        layers.append(layer(f"form {number}", ("dynamic", ONE, form), prefix=prefix, **others))
    return layers, forms


@pytest.mark.parametrize("exact", [True, False], ids=["float32", "8 bits"])
def test_rows_and_columns_are_those_of_torch(browser: Browser, monkeypatch: pytest.MonkeyPatch, exact: bool) -> None:
    """Of every form, head by head and their mean; in 8 bits those of what is left of the tensors."""
    monkeypatch.setattr(packing, "EXACT", 2**16 if exact else 0)
    layers, forms = every_form()
    browser.open(page_with(layers, SIZE))
    for number, form in enumerate(forms):
        expected = float32(form).rows(torch.arange(form.shape[0])).double()
        for head in (0, form.heads - 1):
            rows, columns = browser.matrix(number, *form.shape, head=head)
            torch.testing.assert_close(rows, expected[head], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(columns, expected[head], rtol=1e-5, atol=1e-6)
        mean = (expected.abs() if (expected < 0).any() else expected).mean(0)
        rows, columns = browser.matrix(number, *form.shape)
        torch.testing.assert_close(rows.abs(), mean.abs(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(columns.abs(), mean.abs(), rtol=1e-5, atol=1e-6)


def test_a_mixture_is_weighed_head_by_head(browser: Browser) -> None:
    torch.manual_seed(0)
    dynamic, static = attention(N), Band(kernel=torch.randn(4, 3, 3), grid=GRID)
    alpha, beta = torch.tensor([0.5, -0.25]), torch.tensor([0.75])
    mixed = layer("mixed", ("dynamic", alpha, dynamic), ("static", beta, static))
    browser.open(page_with([mixed], SIZE))
    every = torch.arange(N)
    some, others = dynamic.rows(every).double(), static.rows(every).double()
    whole = alpha.repeat_interleave(2).view(4, 1, 1) * some.repeat_interleave(2, 0) + beta * others
    torch.testing.assert_close(browser.matrix(0, N, N)[0], whole.abs().mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(browser.matrix(0, N, N, map="mixed", head=3)[1], whole[3], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(browser.matrix(0, N, N, map="dynamic")[1], some.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(browser.matrix(0, N, N, map="static", head=1)[0], others[1], rtol=1e-5, atol=1e-6)
    assert browser("contagg.layers()[0].maps") == ["dynamic", "static", "mixed"]


def test_a_mixture_without_signs_is_a_mean_of_weighted_heads(browser: Browser) -> None:
    torch.manual_seed(0)
    first, second, alpha = attention(N), attention(N, heads=4), torch.tensor([0.5, 2.0])
    browser.open(page_with([layer("mixed", ("dynamic", alpha, first), ("dynamic 2", ONE, second))], SIZE))
    every = torch.arange(N)
    whole = (alpha.view(2, 1, 1) * first.rows(every)).mean(0) + second.rows(every).mean(0)
    for found in browser.matrix(0, N, N):
        torch.testing.assert_close(found, whole.double(), rtol=1e-5, atol=1e-6)


def test_8_bits_move_attention_by_no_more_than_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry changes by a factor within e^(+-2 d), d the most that a score can move by half a step of each vector."""
    monkeypatch.setattr(packing, "EXACT", 0)
    torch.manual_seed(0)
    form = attention(N, width=32)
    half = [each.abs().amax(-1, keepdim=True) / 254 for each in (form.query, form.key)]
    lengths = [each.abs().sum(-1, keepdim=True) for each in (form.query, form.key)]
    moved = half[0] * lengths[1].mT + lengths[0] * half[1].mT + 32 * half[0] * half[1].mT
    bound = (2 * form.scale * moved).amax(-1, keepdim=True).exp()[0]
    every = torch.arange(N)
    exact, kept = form.rows(every), packing.rounded(form).rows(every)
    assert ((kept <= exact * bound * 1.0001) & (kept >= exact / bound / 1.0001)).all()
    assert not torch.equal(kept, exact)
    assert packing.rounding_error(form, every) <= float(bound.max() - 1)


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str]]]:
    """An address that counts who comes."""
    visits: list[str] = []

    class Counts(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            visits.append(self.path)
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counts) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", visits
        server.shutdown()


def test_no_request_leaves_the_page(browser: Browser, listener: tuple[str, list[str]]) -> None:
    address, visits = listener
    browser.driver.get_log("performance")
    browser.open(page_with([layer("a", ("dynamic", ONE, attention(N)))], SIZE))
    browser("contagg.hover(0.9, 0.1)")
    told = [json.loads(entry["message"])["message"] for entry in browser.driver.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in told if each["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith(("file:", "data:", "blob:")) for url in asked)
    tried = "fetch(arguments[0]).then(() => done('came through'), () => done('refused'))"
    assert browser.later(tried, address) == "refused"
    pictured = "const i = new Image(); i.onload = i.onerror = () => done('over'); i.src = arguments[0]"
    assert browser.later(pictured, address) == "over"
    assert not visits


def test_names_are_shown_and_never_run(browser: Browser) -> None:
    evil = "</script ><script>window.pwned = 1</script ><img src=x onerror='window.pwned = 2'>"
    page = page_with([layer(evil, ("dynamic", ONE, attention(N)))], SIZE, [Unshown(name=evil, reason=evil)])
    object.__setattr__(page.models[0], "name", evil)
    browser.open(page)
    assert browser("window.pwned") is None
    assert browser("document.querySelectorAll('img').length") == 1
    assert evil in browser("document.querySelector('main').textContent")
    assert browser("document.title").startswith(evil)
    # And what does get into the page by other ways is not run either.
    browser(
        "document.body.insertAdjacentHTML('beforeend', arguments[0]) ?? 0", "<img src=x onerror='window.pwned = 3'>"
    )
    assert browser.later("setTimeout(() => done(window.pwned ?? null), 200)") is None


def two_layers() -> list[RecordedLayer]:
    torch.manual_seed(0)
    band = Band(kernel=torch.randn(3, 3, 3), grid=GRID)
    return [
        layer("first", ("static", ONE, band), label="stage 1, block 1"),
        layer("second", ("dynamic", ONE, attention(N)), ("static", ONE, band), label="stage 2, block 1"),
    ]


def test_keys_reach_everything_and_are_announced(browser: Browser) -> None:
    browser.open(page_with(two_layers(), SIZE))
    canvas = browser.driver.find_element(By.CSS_SELECTOR, ".photo")
    reading: Callable[[], str] = lambda: browser("document.querySelector('.reading').textContent")  # noqa: E731
    canvas.send_keys(Keys.ARROW_UP)
    assert "Token (0, 2) of 3 × 5 gathers" in reading()
    canvas.send_keys(Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert "Token (0, 0)" in reading()
    canvas.send_keys("c")
    assert "Token (0, 0) of 3 × 5 gives" in reading()
    canvas.send_keys("c", "h")
    assert "head 1 of" in reading()
    canvas.send_keys("t")
    assert reading().split(". ")[1].startswith("Dynamic")
    canvas.send_keys("[")
    assert browser("document.querySelector('.head h3').textContent").startswith("stage 1, block 1")
    canvas.send_keys(Keys.ESCAPE)
    assert not browser("contagg.page.pinned")
    said = "setTimeout(() => done(document.querySelector('[aria-live]').textContent), 600)"
    assert browser.later(said) == reading()
    named = "each.textContent.trim() || each.getAttribute('aria-label') || each.closest('button')"
    reached = "[...document.querySelectorAll('button, select, canvas')]"
    assert browser(f"{reached}.filter((each) => !({named})).length") == 0


def test_the_mouse_moves_pins_and_turns_to_the_column(browser: Browser) -> None:
    browser.open(page_with(two_layers(), SIZE, models=2))
    canvas, other = browser.driver.find_elements(By.CSS_SELECTOR, ".photo")
    box = canvas.size
    corner = (4 - box["width"] // 2, 4 - box["height"] // 2)
    ActionChains(browser.driver).move_to_element_with_offset(canvas, *corner).perform()
    readings = "[...document.querySelectorAll('.side .reading')].map((each) => each.textContent)"
    settled = f"requestAnimationFrame(() => requestAnimationFrame(() => done({readings})))"
    first, second = browser.later(settled)
    assert "Token (0, 0)" in first and first == second  # linked
    ActionChains(browser.driver).key_down(Keys.SHIFT).perform()
    assert all("gives" in each for each in browser.later(settled))
    ActionChains(browser.driver).key_up(Keys.SHIFT).perform()
    assert all("gathers" in each for each in browser.later(settled))
    ActionChains(browser.driver).click(canvas).move_to_element_with_offset(canvas, *corner).perform()
    assert "Token (1, 2)" in browser.later(settled)[0]  # pinned
    assert other.is_displayed()
    browser("document.querySelectorAll('.thumb')[1].click() ?? 0")
    titles = browser("[...document.querySelectorAll('.head h3')].map((each) => each.textContent)")
    assert titles[0] == titles[1]  # the layer of one name in both


def test_it_is_dark_where_the_screen_is_and_where_asked(browser: Browser) -> None:
    brightness = "Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])"
    assert browser.open(page_with(two_layers(), SIZE))(brightness) > 200
    assert browser.open(page_with(two_layers(), SIZE), dark=True)(brightness) < 60
    browser("document.getElementById('theme').click() ?? 0")
    assert browser(brightness) > 200


def test_nothing_is_cut_off_on_a_small_screen(browser: Browser) -> None:
    browser.open(page_with(two_layers(), SIZE, models=2), width=400, height=700)
    assert browser("document.documentElement.scrollWidth") <= 400
    assert browser("document.querySelector('.photo').clientWidth") > 300


def test_queries_are_picked_and_their_prior_shown(browser: Browser) -> None:
    torch.manual_seed(0)
    cross = attention(N)
    queries = Scores(
        query=cross.query[:, :, :4],
        key=cross.key,
        query_place=torch.arange(4)[None],
        key_place=torch.arange(N)[None],
        shape=(4, N),
    )
    prior = Term(name="prior", weight=ONE, form=Band(kernel=torch.ones(1, 1, 1), grid=GRID))
    detector = layer("cross", ("dynamic", ONE, queries), targets=("1: cat", "2: dog", "3", "4"), beside=(prior,))
    browser.open(page_with([detector], SIZE))
    assert browser("[...document.querySelectorAll('select option')].map((each) => each.textContent)")[1] == "2: dog"
    browser("Object.assign(document.querySelector('select'), { value: '1' }).dispatchEvent(new Event('change'))")
    assert "Query 2: dog gathers" in browser("document.querySelector('.reading').textContent")
    assert browser("contagg.layers()[0].maps") == ["dynamic", "prior"]


def test_it_answers_within_50_ms_at_1024_pixels(browser: Browser) -> None:
    """Layers of container_light on 1024 x 1024: 65,536 tokens under 64 kernels; 1,024 tokens, 16 heads and 512 kernels.

    The median, since other work may hold the processor.
    """
    torch.manual_seed(0)
    local = layer("local", ("static", ONE, Band(kernel=torch.randn(64, 5, 5), grid=(256, 256))), grid=(256, 256))
    mixed = layer(
        "mixed",
        ("dynamic", ONE, attention(1024, 16, 32)),
        ("static", ONE, Band(kernel=torch.randn(512, 5, 5), grid=(32, 32))),
        grid=(32, 32),
    )
    page = page_with([local, mixed], (1024, 1024))
    assert len(page.html) < 10e6
    browser.open(page)
    for number in (0, 1):
        browser(f"contagg.page.choose(contagg.page.panels[0], {number}) ?? 0")
        places = "[...Array(100).keys()].map((at) => [((at * 37) % 100) / 100, ((at * 61) % 100) / 100])"
        times = browser(f"{places}.map(([row, column]) => contagg.hover(row, column))")
        assert statistics.median(times) < 50, times


def test_it_reads_the_same_in_a_notebook(browser: Browser) -> None:
    page = page_with(two_layers(), SIZE)
    framed = page._repr_html_()
    assert 'sandbox="allow-scripts"' in framed and "allow-same-origin" not in framed
    (browser.folder / "notebook.html").write_text(f"<!doctype html><title>a notebook</title>{framed}", encoding="utf-8")
    browser.driver.get((browser.folder / "notebook.html").as_uri())
    browser.driver.switch_to.frame(0)
    assert browser.later("contagg.ready.then(() => done('ready'), (error) => done(String(error)))") == "ready"
    assert browser("contagg.layers().length") == 2
    browser.driver.switch_to.default_content()


def test_a_normaliser_of_a_query_without_keys_is_minus_infinity() -> None:
    shut = torch.full((1, 1, N, N), -torch.inf)
    form = Scores(**{**vars(attention(N)), "bias": (shut,)})
    assert (packing.normaliser(form) == -torch.inf).all()
