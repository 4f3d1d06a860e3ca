#!/usr/bin/env bash
# Ray on this machine, two workers, against the bundled model: a batch one of whose workers is killed, Parquet in and out,
# Ray's HTTP processor. After installing nothing reaches the network but this machine's own address.
# Usage: benchmarks/scale/ray.sh ENVIRONMENTS [PYTHON of the project's environment]
set -euo pipefail
cd "$(dirname "$0")/../.."
environments=$(mkdir -p "${1:?a folder for the environments}" && cd "$1" && pwd)
python=${2:-.venv/bin/python}
ray=$environments/ray
if [ ! -x "$ray/ready" ]; then
    "$python" -m venv --clear "$ray"
    "$ray/bin/pip" install --quiet --disable-pip-version-check -r benchmarks/scale/requirements-ray.txt
    install -m 755 /dev/null "$ray/ready"
fi
pwd > "$("$ray/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/luvc_export.pth"
exec "$python" benchmarks/scale/ray_cluster.py "$ray"
