#!/usr/bin/env bash
# A stranger's first minutes from nothing: a clone, an empty environment, the tutorial's install, and its first steps in an
# empty folder, with seconds and sizes. $TORCH_CPU_INDEX is where torch's wheel for CPUs lies (docs/tutorial.md).
# Exit code 1 where a step fails, or says anything of a warning, a deprecation or a traceback.
# Usage: benchmarks/bare_install.sh FOLDER [EXTRAS, such as cpu; export,cpu,openvino,report,serve]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:?a folder that is not there} extras=${2:-export,cpu,openvino,report,serve}
mkdir "$folder"
folder=$(cd "$folder" && pwd)
bin=$folder/environment/bin stray='warning|deprecat|traceback'
timed() { # WORDS COMMAND...
    local words=$1 begin=$EPOCHREALTIME
    shift
    "$@" >"$folder/log" 2>&1 || { cat "$folder/log" && echo "failed: $words" && exit 1; }
    awk -v begin="$begin" -v end="$EPOCHREALTIME" -v words="$words" 'BEGIN { printf "%7.1f s  %s\n", end - begin, words }'
}
step() { # COMMAND OF LUVC-EXPORT...
    timed "luvc-export $*" "$bin/luvc-export" "$@"
    if grep -iE "$stray" "$folder/log"; then echo "stray line: $*" && exit 1; fi
}
timed "git clone" git clone --quiet --depth 1 "file://$root" "$folder/clone"
timed "python3 -m venv" python3 -m venv "$folder/environment"
if [ -n "${TORCH_CPU_INDEX:-}" ]; then
    timed "pip install torch" "$bin/pip" install torch --index-url "$TORCH_CPU_INDEX"
fi
timed "pip install '.[$extras]'" "$bin/pip" install "$folder/clone[$extras]"
echo "$(du -sm "$folder/environment" | cut -f1) MB, $("$bin/pip" list 2>/dev/null | tail -n +3 | wc -l) packages"
mkdir "$folder/empty" && cd "$folder/empty"
export XDG_CACHE_HOME=$folder/cache
step --version
step doctor
case ,$extras, in *,export,*) ;; *) exit 0 ;; esac
timed "python -m luvc_export.demo asked" "$bin/python" -m luvc_export.demo asked
step plan demo --plan safe
step export demo -o bundle --plan safe --plan none
du -sm bundle
step run bundle --image asked/0.png --prompt "colour of 6?"
step parity hf:demo "bundle#none" --cases asked/cases.jsonl
case ,$extras, in *,serve,*) ;; *) exit 0 ;; esac
begin=$EPOCHREALTIME
"$bin/luvc-export" serve bundle --port 0 --json --quiet >ready 2>"$folder/log" &
trap 'kill $!' EXIT
until [ -s ready ]; do kill -0 $! && sleep 0.1; done
"$bin/python" -c 'import json, urllib.request as u; u.urlopen(json.load(open("ready"))["address"] + "/ready").read()'
awk -v begin="$begin" -v end="$EPOCHREALTIME" 'BEGIN { printf "%7.1f s  luvc-export serve: it says that it answers, and does\n", end - begin }'
