#!/usr/bin/env bash
# run.sh [--expect-fault] MODEL [-DNAME[=VALUE]...]: searches every state of the model; says how many
# there are, or what went wrong. Exit status: 0 nothing wrong, 1 a fault was found (with --expect-fault
# the other way round), 2 the search is not complete, 77 there is no spin here.
set -euo pipefail
found=1 sound=0
if [ "$1" = --expect-fault ]; then
    found=0 sound=1
    shift
fi
command -v spin >/dev/null || { echo '*** SKIPPED: the model needs spin (Debian package spin)' >&2; exit 77; }
model=$(realpath "$(dirname "$0")/$1")
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
spin "$@" -a "$model" >spin.log 2>&1 || true
[ -f pan.c ] || { cat spin.log >&2; exit 2; }
gcc -w -O1 -DSAFETY -DNOFAIR -DCOLLAPSE -DMEMLIM="${PROTOCOL_MIB:-3000}" -o pan pan.c
./pan -b -m4000000 -w22 >pan.log 2>&1 || true
if grep -qE 'errors: [1-9]' pan.log; then
    echo "$(basename "$model") $*: $(grep -m1 '^pan:1:' pan.log)"
    exit $found
fi
if ! grep -q 'errors: 0' pan.log || grep -qE 'Search not completed|depth too small|out of memory|aborted' pan.log; then
    tail -n 30 pan.log >&2
    echo "$(basename "$model") $*: the search is not complete" >&2
    exit 2
fi
echo "$(basename "$model") $*: $(awk '/states, stored/ {print $1}' pan.log) states, $(awk '/transitions/ {print $1}' pan.log) transitions, depth $(sed -n 's/.*depth reached \([0-9]*\).*/\1/p' pan.log), no fault"
exit $sound
