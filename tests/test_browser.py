"""The report in a browser, from a file and without any network: pictures, the view and what it does when touched."""

import io
import json
import os
import shutil
import time
from contextlib import contextmanager

import matplotlib.image
import numpy as np
import pytest
from small_systems import BOX, small_positions, small_target

from openmm_backmap.analysis import page, viewer
from openmm_backmap.analysis.evaluate import evaluate
from openmm_backmap.analysis.report import write_report
from openmm_backmap.backmapper import Backmapped
from openmm_backmap.io.writers import write_structure

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Software rendering of WebGL, and a resolver that knows no host: the page has nothing but itself.
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
         "--disable-dev-shm-usage", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND",
         "--window-size=1100,900")
PATIENCE_S = 60


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found, driver = next(filter(None, map(shutil.which, BROWSERS)), None), shutil.which("chromedriver")
    if not (found and driver):
        missing = "Chromium" if not found else "chromedriver"
        if os.environ.get("BACKMAP_REQUIRE_BROWSER"):
            pytest.fail(f"{missing} is not there, but BACKMAP_REQUIRE_BROWSER asks for the browser tests")
        pytest.skip(f"{missing} is not there: apt-get install chromium chromium-driver")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = found
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with Chrome(options=options, service=Service(driver)) as chrome:
        yield chrome


@pytest.fixture(scope="module")
def page_path(browser, tmp_path_factory):
    target = small_target()
    x = small_positions(target)
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(path, Backmapped(target.topology, x[None], None, BOX, (), {"input": "cg.gro"}, target,
                                  target.mapping @ x))
    return path


@pytest.fixture
def report(browser, page_path):
    """The browser, with a report open and its view drawn."""
    return browser if browser.current_url == page_path.as_uri() else opened(browser, page_path)


def opened(browser, path):
    browser.get(path.as_uri())
    until(lambda: all(state(figure) == "shown" for figure in views(browser)), lambda: [*map(state, views(browser))])
    return browser


def views(browser):
    return browser.find_elements("css selector", "figure.view")


def state(figure):
    return figure.get_attribute("data-state")


def until(true, found):
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, f"not within {PATIENCE_S} s: {found()}"
        time.sleep(0.1)


def seen(browser, index=0):
    """Pixels (height, width, 3) of a view's canvas, without its border, once two looks at it agree."""
    canvas = views(browser)[index].find_element("css selector", "canvas")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    looks = [None]

    def settled():
        looks.append(matplotlib.image.imread(io.BytesIO(canvas.screenshot_as_png))[3:-3, 3:-3, :3])
        return np.array_equal(looks[-1], looks[-2])
    until(settled, lambda: "the view goes on changing")
    return looks[-1]


@contextmanager
def unchecked(browser, name):
    box = browser.find_element("css selector", f"figure.view input[name={name}]")
    box.click()
    yield
    box.click()


def share_changed(before, after):
    return (np.abs(before - after).max(-1) > 0.02).mean()


def test_every_picture_is_there(report):
    widths = report.execute_script("return [...document.images].map(image => image.naturalWidth)")
    assert len(widths) == 5 and min(widths) > 300


def test_the_view_is_drawn_in_colours(report):
    pixels = seen(report)
    colours, counts = np.unique((pixels * 15).round().astype(int).reshape(-1, 3), axis=0, return_counts=True)
    assert (counts > 20).sum() > 30
    assert 0.05 < (pixels.min(-1) < 0.97).mean() < 0.9  # on white, neither empty nor filled


def test_a_drag_turns_it(report):
    from selenium.webdriver import ActionChains

    before = seen(report)
    canvas = report.find_element("css selector", "figure.view canvas")
    ActionChains(report).click_and_hold(canvas).move_by_offset(80, 30).release().perform()
    until(lambda: share_changed(before, seen(report)) > 0.02, lambda: "a drag changed nothing")


@pytest.mark.parametrize("name", ["atoms", "hydrogens", "beads", "box"])
def test_layers_go_and_come_back(report, name):
    before = seen(report)
    with unchecked(report, name):
        until(lambda: share_changed(before, seen(report)) > 0.001, lambda: f"{name} did not go")
    until(lambda: share_changed(before, seen(report)) < 0.001, lambda: f"{name} did not come back")


def test_several_views_share_the_library_and_some_layers_wait(browser, tmp_path):
    dot = np.zeros((1, 3)), np.array([0.5]), np.array([0xFF0000])
    parts = [viewer.library(), viewer.view([viewer.Layer("dot", *dot)], None, "shown"),
             viewer.view([viewer.Layer("dot", *dot, shown=False)], None, "hidden")]
    path = tmp_path / "two.html"
    path.write_text(page.document("two", parts))
    opened(browser, path)
    shown, hidden = seen(browser), seen(browser, 1)
    assert 0.01 < (shown[..., 1] < 0.5).mean() < 0.9 and hidden.min() > 0.99


def test_the_page_of_an_evaluation_has_its_figures_and_views(browser, tmp_path):
    target = small_target()
    files = [tmp_path / f"{k}.gro" for k in range(1, 6)]
    for k, file in enumerate(files, 1):
        write_structure(file, target.topology, small_positions(target, k), BOX, gro_precision=6)
    evaluate(files[:3], out=tmp_path / "out", held_out=files[3:4], structures={"given": files[4:]}, chemistry="sps")
    opened(browser, tmp_path / "out" / "report.html")
    figures = sorted(file.stem for file in (tmp_path / "out" / "figures").iterdir())
    widths = browser.execute_script("return [...document.images].map(image => image.naturalWidth)")
    assert {"distributions_angle", "energies", "radial", "summary"} <= set(figures)
    assert len(widths) == len(figures) and min(widths) > 300
    assert len(views(browser)) == 2
    assert all(0.02 < (seen(browser, k).min(-1) < 0.97).mean() < 0.9 for k in range(2))


def test_without_webgl_the_page_says_so(browser, tmp_path):
    path = tmp_path / "none.html"
    dot = viewer.Layer("dot", np.zeros((1, 3)), np.array([0.5]), np.array([0xFF0000]))
    path.write_text("<script>HTMLCanvasElement.prototype.getContext = () => null</script>"
                    + page.document("none", [viewer.library(), viewer.view([dot], None, "")]))
    browser.get(path.as_uri())
    until(lambda: state(views(browser)[0]) == "failed", lambda: state(views(browser)[0]))
    assert "WebGL is needed" in views(browser)[0].text


def test_nothing_is_asked_of_a_network_and_nothing_goes_wrong(browser, page_path):
    """By what the browser writes down while it opens the report."""
    for log in ("performance", "browser"):
        browser.get_log(log)
    seen(opened(browser, page_path))
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert page_path.as_uri() in asked
    assert {url.split(":", 1)[0] for url in asked} <= {"file", "data", "blob"}
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
