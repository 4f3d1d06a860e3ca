"""A server of models of every form of calls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from calling import Client
from form_bundles import template, write
from running import serving

from luvc_export.serve.models import Models, ServedModel
from luvc_export.serve.tools.detection import FORMS


@pytest.fixture(scope="session")
def of_forms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server of a random model for each form, FORM, and of one whose marks are tokens, FORM-tokens."""
    folder = tmp_path_factory.mktemp("forms")
    models = [
        ServedModel(name, write(folder / name, template(form), marks))
        for form in FORMS
        for name, marks in ((form, ()), (f"{form}-tokens", FORMS[form].marks[:2]))
    ]
    with serving(Models(models)) as (_, client):
        yield client
