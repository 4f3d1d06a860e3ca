#!/usr/bin/env bash
# Guided answers over published schemas and the JSON Schema test suite (schemas.py), which are fetched here at one commit
# each: guidance-ai/jsonschemabench and json-schema-org/JSON-Schema-Test-Suite, with jsonschema as the judge.
# Usage: benchmarks/serving/schemas.sh FOLDER [PYTHON of the project's environment] [options of schemas.py]
# $LUVC_SCHEMAS and $LUVC_SUITE name folders of both that are here already.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$(mkdir -p "${1:?a folder for what is fetched}" && cd "$1" && pwd)
python=${2:-.venv/bin/python}
fetched() { # NAME ADDRESS COMMIT
    if [ ! -e "$folder/$1/.fetched" ]; then
        rm -rf "${folder:?}/$1"
        git clone --quiet --no-checkout "$2" "$folder/$1"
        git -C "$folder/$1" checkout --quiet "$3"
        touch "$folder/$1/.fetched"
    fi
}
[ -n "${LUVC_SCHEMAS:-}" ] ||
    fetched bench https://github.com/guidance-ai/jsonschemabench ba103c73756198dd9b149ddc7db7867da7a077f6
[ -n "${LUVC_SUITE:-}" ] ||
    fetched suite https://github.com/json-schema-org/JSON-Schema-Test-Suite 44401e0c046704b476ec9d2e2fccdaee618f259d
schemas=${LUVC_SCHEMAS:-$folder/bench/data}
suite=${LUVC_SUITE:-$folder/suite/tests/draft2020-12}
if [ ! -e "$folder/judge/.installed" ]; then
    "$python" -m pip install --quiet --disable-pip-version-check --target "$folder/judge" \
        -r benchmarks/serving/official/requirements-schemas.txt
    touch "$folder/judge/.installed"
fi
export PYTHONPATH=$folder/judge${PYTHONPATH:+:$PYTHONPATH}
exec "$python" benchmarks/serving/schemas.py "$schemas" --suite "$suite" "${@:3}"
