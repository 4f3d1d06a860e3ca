#!/usr/bin/env bash
# The official openai client, langchain-openai and litellm against the bundled model. Two environments, as litellm wants
# an older openai. After installing nothing reaches the network but this machine's own address (clients_check.py).
# Usage: benchmarks/serving/clients.sh ENVIRONMENTS [PYTHON of the project's environment]
set -euo pipefail
cd "$(dirname "$0")/../.."
environments=${1:?a folder for the environments}
python=${2:-.venv/bin/python}
for name in openai litellm; do
    if [ ! -x "$environments/$name/bin/python" ]; then
        python3 -m venv "$environments/$name"
        "$environments/$name/bin/pip" install --quiet --disable-pip-version-check \
            -r "benchmarks/serving/requirements-$name.txt"
    fi
done
exec "$python" benchmarks/serving/clients.py "$environments"
