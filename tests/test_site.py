"""The site in a real browser: every page opens, nothing is asked of the network, figures and formulas show, links lead somewhere.

Needs `pip install 'w2snb[site]' playwright` and Chromium (Debian's package `chromium`). With W2SNB_SITE set to a folder that was built
before, that one is looked at."""
import functools
import http.server
import os
import shutil
import sys
import threading
from importlib import util
from pathlib import Path
from urllib.parse import urldefrag, urljoin, urlparse

import pytest

from conftest import ROOT

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync".split()
MISSING = [name for name, there in dict(chromium=CHROMIUM, **{n: util.find_spec(n) for n in ("playwright", "jupyter_book", "sphinx-mathjax-offline")}).items() if not there]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=f"the site is checked where Chromium, playwright and w2snb[site] are installed; missing: {', '.join(MISSING)}")]

SHOWN = """async () => {
    if (window.MathJax?.startup?.promise) await window.MathJax.startup.promise;
    await Promise.all([...document.images].map(i => { i.loading = 'eager'; return i.complete ? 0 : new Promise(d => { i.onload = i.onerror = d }) }));
    const sources = [...document.querySelectorAll('.math')];
    return {
        links: [...document.links].map(a => a.href),
        names: [...document.querySelectorAll('[id], a[name]')].map(e => e.id || e.name),
        images: document.images.length, broken: [...document.images].filter(i => !i.naturalWidth).map(i => i.src.slice(0, 80)),
        formulas: document.querySelectorAll('mjx-container, math:not(mjx-container math)').length,
        undrawn: sources.filter(e => !e.querySelector('mjx-container')).map(e => e.textContent.slice(0, 60)),
        wrong: [...document.querySelectorAll('mjx-merror')].map(e => e.textContent.slice(0, 60)),
        dollars: [...document.querySelectorAll('p, li, td, h1, h2, h3')].map(e => { const c = e.cloneNode(true);
            c.querySelectorAll('code, pre, mjx-container, math').forEach(x => x.remove()); return c.textContent }).filter(t => t.includes('$')),
        flat: [...document.querySelectorAll('mjx-container, math')].filter(e => !e.closest('mjx-container mjx-assistive-mml') && !e.closest('details') && e.getBoundingClientRect().height < 4).length,
    }}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, and its address on this machine."""
    from w2snb.reporting.site import build_site

    folder = Path(os.environ["W2SNB_SITE"]) if os.environ.get("W2SNB_SITE") else build_site(tmp_path_factory.mktemp("out") / "site", notebooks=False).parent
    handler = functools.partial(type("Quiet", (http.server.SimpleHTTPRequestHandler,), dict(log_message=lambda *a: None)), directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def look(folder, address):
    """Every page in Chromium: what it shows, and what went wrong."""
    from playwright.sync_api import sync_playwright

    seen, problems = {}, []
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for path in sorted(folder.rglob("*.html")):
            if "_static" in path.parts or 'http-equiv="refresh"' in path.read_text()[:300].lower():  # the first page forwards to the index
                continue
            url, page = address + path.relative_to(folder).as_posix(), browser.new_page()
            page.on("request", lambda r: problems.append(f"{url} asks for {r.url[:120]}") if not r.url.startswith((address, "data:", "blob:")) else None)
            page.on("response", lambda r: problems.append(f"{url}: {r.status} for {r.url}") if r.status >= 400 else None)
            page.on("pageerror", lambda e: problems.append(f"{url}: {str(e)[:200]}"))
            page.goto(url, wait_until="load")
            seen[url] = page.evaluate(SHOWN)
            page.close()
        browser.close()
    return seen, problems


def test_every_page_in_chromium(site):
    folder, address = site
    seen, problems = look(folder, address)
    for url, shown in seen.items():
        for what in ("broken", "undrawn", "wrong", "dollars"):
            problems += [f"{url}: {what} {x}" for x in shown[what]]
        if shown["flat"]:
            problems.append(f"{url}: {shown['flat']} formulas without a height")
        for link in shown["links"]:
            target, name = urldefrag(urljoin(url, link))
            if not target.startswith(address):
                continue
            if target not in seen:
                if not (folder / urlparse(target).path.lstrip("/")).exists():
                    problems.append(f"{url} links to {link}, which is not there")
            elif name and name not in seen[target]["names"]:
                problems.append(f"{url} links to {link}: no such place on that page")
    count = {k: sum(len(s[k]) if isinstance(s[k], list) else s[k] for s in seen.values()) for k in ("images", "formulas", "links")}
    print(len(seen), "pages", count, file=sys.stderr)
    assert not problems, "\n".join(sorted(set(problems)))
    assert len(seen) > len(list((ROOT / "nbs").rglob("*.ipynb"))) and count["images"] > 50 and count["formulas"] > 100
