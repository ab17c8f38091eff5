"""Make docs/demo: the explorer's page of a network trained on Caltech-101, and its screenshot.

Commands   contagg fit -c own-images --data.name parquet --data.root CALTECH --model.name container_tiny \\
               --model.options '{"position": "cpe"}' --model.image_size 96 --augmentation.auto_augment null \\
               --optimization.epochs 14 --optimization.lr 1.5e-3 --optimization.batch_size 64 --run.folder RUN
           python -m tools.explorer_demo RUN CALTECH
Needs      CALTECH with test.parquet (columns image and label), and Chromium for the screenshot.
"""

import argparse
import io
import shutil
import tempfile
from pathlib import Path

import pyarrow.parquet
from PIL import Image
from selenium import webdriver

from contagg.cli import main as contagg
from contagg.errors import UserError

FOLDER = Path(__file__).parent.parent / "docs" / "demo"
ROW = 1154
"""Of the photograph in test.parquet."""
SHAPE = (128, 170)
SCREEN = (1360, 880)
NOTE = (
    "container_tiny (1.1 M parameters) with conditional positions, trained for 14 epochs on Caltech-101. Photograph: "
    "Caltech-101 (Li, Andreetto, Ranzato, Perona), CC BY 4.0, reduced and cropped."
)


def photograph(root: Path) -> Image.Image:
    """Cropped to a shape whose sides whole patches fill."""
    table = pyarrow.parquet.read_table(root / "test.parquet", columns=["image"])
    image = Image.open(io.BytesIO(table["image"][ROW].as_py()), formats=("JPEG",)).convert("RGB")
    return image.crop((0, 0, SHAPE[1], SHAPE[0])).resize((256, 192), Image.Resampling.LANCZOS)


def screenshot(page: Path, path: Path, *, dark: bool = False) -> None:
    """What a person sees first, at the size of `SCREEN`. UserError without a browser."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(programs):
        raise UserError("a screenshot needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=programs[1])) as driver:
        driver.set_script_timeout(60)
        screen = {"width": SCREEN[0], "height": SCREEN[1], "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        driver.get(page.resolve().as_uri())
        driver.execute_async_script("const done = arguments[0]; contagg.ready.then(() => done())")
        driver.execute_script(
            "contagg.page.choose(contagg.page.panels[0], 2, {map: 'dynamic'}); contagg.hover(0.36, 0.78)"
        )
        driver.execute_async_script(
            "const done = arguments[0], ask = () => setTimeout(contagg.idle() ? done : ask, 200); ask()"
        )
        path.write_bytes(driver.get_screenshot_as_png())


def main(arguments: list[str] | None = None) -> None:
    """Page and screenshot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run folder")
    parser.add_argument("root", type=Path, help="the folder with Caltech-101's test.parquet")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    page = given.folder / "explorer.html"
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "photograph.png")
        photograph(given.root).save(image)
        words = ["--size", "192", "--fields", "48", "--note", NOTE, "-o", str(page)]
        contagg(["inspect", "explore", given.run, str(image), *words])
    screenshot(page, given.folder / "explorer.png")


if __name__ == "__main__":
    main()
