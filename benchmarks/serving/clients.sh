#!/usr/bin/env bash
# The official openai clients of Python and Node, embeddings by openai and LangChain, openai-python's own tests, requests
# drawn from OpenAI's own file by schemathesis, LangChain's standard tests, and eight agent libraries, against the
# bundled model, embeddings against a tiny one. Two environments, as
# litellm wants an older openai; Node's where there is npm. $LUVC_WHOLE, and --page, run all of suites of which else a
# part is run.
# After installing nothing reaches the network but this machine's own address (official/common.py).
# Usage: benchmarks/serving/clients.sh ENVIRONMENTS [PYTHON of the project's environment [options of clients.py]]
set -euo pipefail
cd "$(dirname "$0")/../.."
environments=${1:?a folder for the environments}
python=${2:-.venv/bin/python}
official=benchmarks/serving/official
mkdir -p "$environments"
installing=()
for name in openai litellm; do
    if [ "$official/requirements-$name.txt" -nt "$environments/$name/.installed" ]; then
        python3 -m venv "$environments/$name"
        pip=("$environments/$name/bin/pip" --quiet --disable-pip-version-check)
        "${pip[@]}" install -r "$official/requirements-$name.txt"
        if [ "$name" = openai ]; then # its tests are in its source package alone
            version=$("$environments/openai/bin/python" -c "import openai; print(openai.__version__)")
            "${pip[@]}" download --no-deps --no-binary openai --dest "$environments/openai/sdist" "openai==$version"
            tar -xzf "$environments/openai/sdist/openai-$version.tar.gz" -C "$environments/openai/sdist"
        fi
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
exec "$python" benchmarks/serving/clients.py "$environments" "${@:3}"
