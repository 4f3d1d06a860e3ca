"""Memory of a request is counted before it is taken: values of its body, pixels of its pictures."""

from __future__ import annotations

import io
import resource
import threading
import time

import pytest
from PIL import Image

from luvc_export.runtime.media.pictures import pixels_to_decode
from luvc_export.serve.http.api_errors import ApiError
from luvc_export.serve.http.json_bodies import MOST_VALUES, check_text
from luvc_export.serve.interfaces.protocol import parse
from luvc_export.serve.media.addresses import PixelBudget


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_pixels_are_counted_from_the_header() -> None:
    stored = io.BytesIO()
    Image.new("RGB", (5000, 4000)).save(stored, "PNG")
    assert len(stored.getvalue()) < 100_000 and pixels_to_decode(stored.getvalue(), None) == 20_000_000
    stored = io.BytesIO()
    Image.new("RGB", (5000, 4000)).save(stored, "JPEG")
    assert pixels_to_decode(stored.getvalue(), (300, 300)) < 2_000_000, "decoded at a reduced scale"
    assert pixels_to_decode(b"no picture", None) == 0


def test_one_request_has_a_limit_and_all_share_it() -> None:
    budget = PixelBudget(100, patience=0.2)
    with pytest.raises(ApiError, match="too large together: 101 pixels") as caught, budget.take(101):
        pass
    assert caught.value.status == 400
    with budget.take(60):
        with budget.take(40):
            pass
        begin = time.monotonic()
        with pytest.raises(ApiError, match="too many large pictures at once") as caught, budget.take(41):
            pass
        assert caught.value.status == 429 and time.monotonic() - begin >= 0.2
    with budget.take(100):
        pass


def test_who_waits_goes_on_when_others_are_done() -> None:
    budget, order = PixelBudget(10, patience=10), list[str]()
    holds = threading.Event()

    def first() -> None:
        with budget.take(10):
            holds.set()
            time.sleep(0.1)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    assert holds.wait(10)
    with budget.take(10):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize(
    "body",
    [b"[" + b"0," * 2 * MOST_VALUES + b"0]", b"[" + b"[]," * MOST_VALUES + b"0]", b'{"a":{},' * MOST_VALUES],
    ids=["numbers", "lists", "objects"],
)
def test_a_body_of_too_many_values_is_refused_before_it_is_parsed(body: bytes) -> None:
    begin, before = time.process_time(), peak()
    with pytest.raises(ApiError, match="expected: at most 100,000") as caught:
        parse(body)
    assert caught.value.code == "body_too_complex" and time.process_time() - begin < 1
    assert peak() - before < 2**27


def test_places_are_written_out_for_what_is_refused_alone() -> None:
    """A name of 1 MB over 2,500 numbers took 2.6 GB."""
    name, before = "k" * 2**20, peak()
    check_text({name: [0] * 2500, "b": [{name: 0}] * 50})
    assert peak() - before < 2**27
    with pytest.raises(ApiError) as caught:
        check_text({name: ["x", {"y": "\ud800"}]})
    assert caught.value.param == "k" * 200
    with pytest.raises(ApiError) as caught:
        check_text({"messages": [{"content": "\ud800"}]})
    assert caught.value.param == "messages[0].content"
    for data in ({"a": {"\ud800": 0}}, {"\ud800": 0}, ["\udfff"]):
        with pytest.raises(ApiError, match="this text is not Unicode"):
            check_text(data)
