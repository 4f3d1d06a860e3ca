"""docs/keywords.md: every keyword of Python's calls, written from the fields of the records that they take.

``python docs/keywords_page.py`` rewrites it; a test compares it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from luvc_export.core.files import pages
from luvc_export.core.options import Asked, Option
from luvc_export.core.plan import Sharing
from luvc_export.core.plan.request import EncoderRequest, LlmRequest
from luvc_export.engines.options import BuildOptions, EngineOptions
from luvc_export.pipeline.export_options import ExportOptions
from luvc_export.runtime.generation.sampling import AnswerOptions
from luvc_export.runtime.session_options import SessionOptions

#: Records by the calls that take their fields by name.
RECORDS: dict[str, tuple[type, ...]] = {
    "`load_bundle`, `Session`, `batch.answerer.Answerer`, `ray.Answerer`": (SessionOptions,),
    "`Session.generate`, `Session.generate_batch`": (AnswerOptions,),
    "`make_plan`, `make_plans`": (LlmRequest, EncoderRequest, Sharing),
    "`export_bundle`": (ExportOptions,),
    "`build_engine`": (EngineOptions,),
    "`BuildOptions`, which `build_engine` takes as `options`": (BuildOptions,),
}
HEAD = """# Keywords of Python's calls

Written by `python docs/keywords_page.py` from the records of options; do not edit. A call takes the record, its fields
by name, or both, where names go first: `Session("bundle", options=SessionOptions(threads=2), backend="cpu")`. The
option is that of the commands which have it ([cli.md](cli.md)). Further keywords are described where their call is
([api.md](api.md)).
"""


def rows(record: type) -> Iterator[tuple[str, str, str, str]]:
    """Keyword, default, option and meaning of each field that has a help."""
    for each in dataclasses.fields(record):
        option: Option | None = each.metadata.get("option")
        if option is None or not option.help:
            continue
        default = each.default_factory() if each.default_factory is not dataclasses.MISSING else each.default
        ends = (("At least", option.least), ("At most", option.most))
        bounds = [f"{word} {end:g}." for word, end in ends if end is not None]
        name = "" if option.verbs == () else f"`{Asked(each.name, option, str, None).flag}`"
        shown = "" if default is None else f"`{default}`"
        yield f"`{option.keyword or each.name}`", cell(shown), name, cell(" ".join([option.help, *bounds]))


def cell(text: str) -> str:
    """``text`` inside a Markdown table."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")


def page() -> str:
    """docs/keywords.md."""
    sections = [HEAD]
    for calls, records in RECORDS.items():
        lines = [row for record in records for row in rows(record)]
        sections.append(f"\n## {calls}\n\n" + pages.table(("keyword", "default", "option", "meaning"), lines))
    return "".join(sections)


if __name__ == "__main__":
    Path(__file__).with_name("keywords.md").write_text(page(), encoding="utf-8")
