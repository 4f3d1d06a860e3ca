#!/usr/bin/env bash
# A real tritonserver, without a GPU, from the nvidia-pytriton wheel, against the bundled model. After installing nothing
# reaches the network but this machine's own address.
# Usage: benchmarks/scale/triton.sh ENVIRONMENTS [PYTHON of the project's environment]
set -euo pipefail
cd "$(dirname "$0")/../.."
environments=$(mkdir -p "${1:?a folder for the environments}" && cd "$1" && pwd)
python=${2:-.venv/bin/python}
triton=$environments/triton
if [ ! -x "$triton/ready" ]; then
    # The wheel's stubs embed a Python: the version must be one it has, and libpython must be there.
    "$python" -m venv --clear "$triton"
    "$triton/bin/pip" install --quiet --disable-pip-version-check -r benchmarks/scale/requirements-triton.txt
    site=$("$triton/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    version=$("$triton/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    mkdir -p "$triton/backends"
    cp -r "$site/pytriton/tritonserver/backends/python" "$triton/backends/"
    cp "$site/pytriton/tritonserver/python_backend_stubs/$version/triton_python_backend_stub" "$triton/backends/python/"
    install -m 755 /dev/null "$triton/ready"
fi
pwd > "$("$triton/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/luvc_export.pth"
exec "$python" benchmarks/scale/triton_server.py "$triton"
