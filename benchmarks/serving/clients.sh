#!/usr/bin/env bash
# The official openai clients of Python and Node, langchain-openai, LangChain's standard tests and litellm against the
# bundled model. An environment for each that needs one, as litellm wants an older openai; Node's where there is npm.
# After installing nothing reaches the network but this machine's own address (official/common.py).
# Usage: benchmarks/serving/clients.sh ENVIRONMENTS [PYTHON of the project's environment]
set -euo pipefail
cd "$(dirname "$0")/../.."
environments=${1:?a folder for the environments}
python=${2:-.venv/bin/python}
official=benchmarks/serving/official
mkdir -p "$environments"
installing=()
for name in openai litellm instructor pydantic-ai agents; do
    if [ "$official/requirements-$name.txt" -nt "$environments/$name/.installed" ]; then
        python3 -m venv "$environments/$name"
        "$environments/$name/bin/pip" install --quiet --disable-pip-version-check -r "$official/requirements-$name.txt"
        touch "$environments/$name/.installed"
    fi &
    installing+=($!)
done
if command -v npm >/dev/null && [ ! -e "$environments/node/.installed" ]; then
    mkdir -p "$environments/node"
    cp "$official/package.json" "$environments/node/"
    npm install --prefix "$environments/node" --no-audit --no-fund --silent
    touch "$environments/node/.installed"
fi
for each in "${installing[@]}"; do wait "$each"; done
exec "$python" benchmarks/serving/clients.py "$environments"
