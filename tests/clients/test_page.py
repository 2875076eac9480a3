"""The live page in a real browser: it names a cold scan, by eye, by keyboard and by a screen reader's tree.

Skipped where no Chromium can be had. PENSTOCK_SCREENSHOTS=DIR keeps what the page looks like.
"""

import json
import os
import re
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import confluent_kafka
import pytest

from browser import Browser, chromium
from clients import confluent_write, create_topic
from processes import wait_until
from segment_files import segments

pytestmark = pytest.mark.skipif(chromium() is None, reason="SKIPPED: there is no Chromium here to show the page in")

VALUE_BYTES, VALUES, SEGMENT_BYTES = 8 * 1024, 4000, 4 * 1024 * 1024
# Of everyone, more than the scan takes.
BUDGET_MIB = 200
SCAN, GROUP = "backfill-7", "nightly"
HOSTILE = "<img src=x onerror=document.title='owned'>"
VIEWS = [(1280, 900, "light"), (1280, 900, "dark"), (400, 800, "light"), (400, 800, "dark")]


class Consumer(threading.Thread):
    """Reads what it subscribes to until it is stopped. One that scans evicts what it will read, and begins again."""

    def __init__(self, address: str, client: str, group: str, topic: str, start: str, scans: Path | None = None):
        super().__init__(daemon=True)
        self._scans, self._ends = scans, threading.Event()
        settings = {"client.id": client, "group.id": group, "auto.offset.reset": start, "enable.auto.commit": False}
        bounds = {"fetch.message.max.bytes": 128 * 1024, "queued.max.messages.kbytes": 256}
        self._consumer = confluent_kafka.Consumer({"bootstrap.servers": address, **settings, **bounds})
        self._consumer.subscribe([topic])
        self.start()

    def run(self) -> None:
        while not self._ends.is_set():
            for log in segments(self._scans, "orders")[:-1] if self._scans else []:
                evict(log)
            read = self._consumer.consume(4, timeout=0.2)
            if self._scans and read and read[-1].offset() > VALUES * 3 / 4:
                self._consumer.seek(confluent_kafka.TopicPartition("orders", read[-1].partition(), 0))
            time.sleep(0.1)
        self._consumer.close()

    def stop(self) -> None:
        self._ends.set()
        self.join()


def evict(log: Path) -> None:
    file = os.open(log, os.O_RDONLY)
    try:
        os.fdatasync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def scanned(penstock_only, start):
    """A server whose topic `orders` is scanned from the disk while others follow its end."""
    server = start(settings={"disk.reserve.percent": 0, "fetch.cold.bytes.per.second": BUDGET_MIB << 20})
    for topic, partitions in (("orders", 2), ("payments", 3), ("clicks.by-region", 1)):
        create_topic(server, topic, partitions, SEGMENT_BYTES)
    confluent_write(server.address, "orders", "none", [os.urandom(VALUE_BYTES) for _ in range(VALUES)])
    confluent_write(server.address, "payments", "none", [os.urandom(VALUE_BYTES) for _ in range(900)], partition=1)
    consumers = [
        Consumer(server.address, SCAN, GROUP, "orders", "earliest", server.data_dir),
        Consumer(server.address, "dashboard", "live", "orders", "latest"),
        Consumer(server.address, HOSTILE, "strangers", "payments", "earliest"),
    ]
    trickles = threading.Event()

    def trickle() -> None:
        producer = confluent_kafka.Producer({"bootstrap.servers": server.address, "linger.ms": 5})
        while not trickles.wait(0.1):
            producer.produce("orders", os.urandom(VALUE_BYTES), partition=0)
            producer.poll(0)
        producer.flush(10)

    producing = threading.Thread(target=trickle, daemon=True)
    producing.start()
    yield server
    trickles.set()
    producing.join()
    for consumer in consumers:
        consumer.stop()


@pytest.fixture
def opened(browser, scanned):
    """The page at a size, once it shows the scan."""

    pages = []

    def opened(width: int = 1280, height: int = 900, scheme: str = "light"):
        page = browser.open(scanned.page_url, width, height, scheme)
        pages.append(page)
        page.wait_for(f"document.querySelector('#cold tbody')?.innerText.includes('{SCAN}')", "the scan has a name")
        return page

    yield opened
    for page in pages:
        page.close()


def test_a_cold_scan_is_named_with_its_group_and_place_and_nothing_fails(opened):
    page = opened()
    row = page.ask(f"[...document.querySelectorAll('#cold tbody tr')].find(r => r.innerText.includes('{SCAN}')).innerText")
    assert GROUP in row and "orders-0" in row and "iB/s" in row, row
    page.wait_for("/reader.*cold/.test(document.querySelector('#rows').innerText)", "its partition counts it")
    page.wait_for("document.querySelector('#rows .mark') !== null", "it has a mark")
    assert page.ask("document.querySelector('#status').innerText") == "live"
    assert page.faults == []
    assert {url.split("/")[2] for url in page.requests if not url.startswith("data:")} == {page.ask("location.host")}


def test_the_strips_show_what_is_in_memory_and_what_is_not(opened):
    page = opened()
    colours = """(() => {
        const row = [...document.querySelectorAll('#rows li')].find(row => row.innerText.startsWith('orders-0'));
        const canvas = row.querySelector('canvas'), pen = canvas.getContext('2d');
        const pixels = pen.getImageData(0, 10, canvas.width, 1).data;
        const seen = new Set();
        for (let i = 0; i < pixels.length; i += 4) if (pixels[i + 3] === 255) seen.add([...pixels.slice(i, i + 3)].join());
        return [...seen].join(' ');
    })()"""
    page.wait_for(f"{colours}.includes('217,222,228') && {colours}.includes('11,125,119')", "cold and hot parts")
    page.wait_for("/orders-0[^]*?[0-9] % in memory/.test(document.querySelector('#rows').innerText)", "a part in words")


def test_what_clients_call_themselves_is_shown_and_never_parsed(opened):
    page = opened()
    page.wait_for("[...rows.values()].some(row => row.readers.some(r => r.client_id.includes('onerror')))", "it is there")
    page.ask("[...document.querySelectorAll('.row')].forEach(row => row.click())")
    shown = f"document.querySelector('#rows').innerText.includes({json.dumps(HOSTILE)})"
    page.wait_for(shown, "its name is shown as it is")
    assert page.ask("document.querySelectorAll('img').length") == 0
    assert "owned" not in page.ask("document.title")
    assert page.faults == []


def test_a_screen_reader_finds_landmarks_rows_and_a_quiet_status(opened):
    tree = opened().tree()
    for expected in [
        ("banner", ""), ("main", ""), ("status", ""), ("heading", "Partitions"), ("region", "Who reads cold"),
        ("region", "Last ten minutes"), ("table", "Who reads cold"), ("columnheader", "From disk"),
        ("rowheader", SCAN), ("button", "orders-0"), ("searchbox", "Topic contains"), ("list", "Partitions"),
    ]:
        assert expected in tree, f"{expected} is not in {tree}"
    rows = [name for role, name in tree if role == "button" and name.startswith("orders-0 ")]
    assert len(rows) == 1 and "in memory" in rows[0] and "reader" in rows[0], rows
    charts = [name for role, name in tree if role in ("image", "img")]
    disk = re.compile(rf"Read from disk by fetches: now .*, permitted {BUDGET_MIB}(\.0)? MiB/s")
    assert any(disk.fullmatch(name) for name in charts), charts


def test_tab_reaches_the_rows_and_enter_opens_one(opened):
    page = opened()
    for _ in range(30):
        page.press("Tab")
        if page.ask("document.activeElement.className") == "row":
            break
    focused = "document.activeElement"
    assert page.ask(f"{focused}.className") == "row", "no row within thirty steps"
    assert page.ask(f"getComputedStyle({focused}).outlineStyle") == "solid", "the focus is seen"
    page.press("Enter")
    assert page.ask(f"{focused}.getAttribute('aria-expanded')") == "true"
    detail = page.ask(f"document.getElementById({focused}.getAttribute('aria-controls')).innerText")
    assert "offsets" in detail and "Segments" in detail, detail
    before = page.ask("overview.at")
    page.wait_for(f"overview.at > {before}", "the next event")
    assert page.ask(f"{focused}.className") == "row", "an event moves no focus"


@pytest.mark.parametrize(("width", "height", "scheme"), VIEWS)
def test_it_fits_its_window_in_both_schemes(opened, tmp_path, width, height, scheme):
    page = opened(width, height, scheme)
    page.wait_for("rates.size > 0 && !document.querySelector('#t-inline').innerText.includes('–')", "rates are known")
    page.ask("[...rows.values()].find(row => row.id === 'orders-0').button.click()")
    page.wait_for("document.querySelector('.detail:not([hidden]) tbody tr') !== null", "the detail")
    wide = page.ask("document.scrollingElement.scrollWidth")
    assert wide <= width, f"{wide} pixels wide in a window of {width}"
    cut = page.ask("""[...document.querySelectorAll('dd, th, td, .facts, h2, .name')].filter(e =>
        e.offsetParent && (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflow !== 'visible'
        || e.getBoundingClientRect().right > innerWidth)).map(e => e.innerText)""")
    assert cut == [], "text is cut off"
    folder = Path(os.environ.get("PENSTOCK_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(folder / f"page-{width}-{scheme}.png")
    assert page.faults == []


def test_a_page_says_when_the_stream_breaks_and_goes_on_when_the_server_is_back(browser, penstock_only, start):
    server = start()
    create_topic(server, "lasting")
    page = browser.open(server.page_url, 1280, 900, "light")
    page.wait_for("document.querySelector('#rows')?.innerText.includes('lasting-0')", "the partition")
    server.kill()
    page.wait_for("document.querySelector('#status').className === 'lost'", "the page says so")
    assert "lasting-0" in page.text(), "what was known stays"
    back = start(server.data_dir, ports=server.ports)
    page.wait_for("document.querySelector('#status').innerText === 'live'", "it is live again")
    back.stop()
    page.close()


def test_the_number_of_pages_is_bounded_and_a_closed_one_makes_room(penstock_only, start):
    server = start()
    streams = [urllib.request.urlopen(server.page_url + "events", timeout=10) for _ in range(8)]
    assert all(b"event: overview" in stream.read(200) for stream in streams)
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(server.page_url + "events", timeout=10)
    streams.pop().close()

    def is_served() -> bool:
        try:
            streams.append(urllib.request.urlopen(server.page_url + "events", timeout=10))
        except urllib.error.HTTPError:
            return False
        return True

    wait_until(is_served, "the place of a closed page is free")
    server.stop()
