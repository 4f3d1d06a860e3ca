from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luvc_export.core.files.json_file import LINE, dumps

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(PLAIN)
def test_it_is_json_of_the_same_data(data: object) -> None:
    assert json.loads(dumps(data)) == data


def test_a_record_is_a_line_and_a_table_is_not() -> None:
    row = {"name": "even", "keep": [108] * 40, "accuracy": [0.5, 0.4, 0.6]}
    table = {"rows": [row] * 30, "text": 17}
    lines = dumps(table).splitlines()
    assert len(lines) == 30 + 5 and max(map(len, lines)) <= LINE
    assert json.loads(lines[2].rstrip(",")) == row and json.loads("\n".join(lines)) == table


def test_a_number_that_json_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps({"accuracy": float("nan")})
