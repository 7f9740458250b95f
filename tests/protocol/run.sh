#!/usr/bin/env bash
# run.sh [--expect FAULT] MODEL [-DNAME[=VALUE]...]: searches every state of the model; says how many
# there are, or what went wrong. Exit status: 0 nothing wrong; 1 a fault was found, with --expect that
# none was or another one; 2 the search is not complete; 77 there is no spin here. The faults:
#   asleep       a state from which nothing moves, though somebody waits
#   overwritten  a message, before it was read
#   wrong        a message that is not the one its number promised
set -euo pipefail
declare -A says=([asleep]='invalid end state' [overwritten]='assertion violated  !(is_overwritten)'
                 [wrong]='assertion violated  !(is_wrong)')
expected=''
if [ "$1" = --expect ]; then
    expected=${says[$2]}
    shift 2
fi
command -v spin >/dev/null || { echo '*** SKIPPED: the model needs spin (Debian package spin)' >&2; exit 77; }
model=$(realpath "$(dirname "$0")/$1")
shift
what="$(basename "$model") $*"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
spin "$@" -a "$model" >spin.log 2>&1 || true
[ -f pan.c ] || { cat spin.log >&2; exit 2; }
# Every state whole, no bit-state hashing; and every step (NOREDUCE), whatever spin thinks of it.
optimisation=-O1
[ -z "$expected" ] || optimisation=-O0
gcc -w $optimisation -DSAFETY -DNOREDUCE -DNOFAIR -DMEMLIM="${PROTOCOL_MIB:-1800}" -o pan pan.c
./pan -b -m4000000 -w23 >pan.log 2>&1 || true

if grep -qE 'depth limit|depth too small|MEMLIM|out of memory|hash table full|aborted' pan.log ||
    ! grep -q 'Full statespace search for:' pan.log; then
    tail -n 30 pan.log >&2
    echo "$what: the search is not complete" >&2
    exit 2
fi
fault=$(grep -m1 '^pan:1:' pan.log) || fault=''
if [ -n "$expected" ]; then
    case $fault in
    "pan:1: $expected"*) echo "$what: noticed: $fault"; exit 0 ;;
    esac
    echo "$what: unnoticed, which should have been: $expected; instead: ${fault:-no fault}" >&2
    exit 1
fi
if [ -n "$fault" ] || ! grep -q 'errors: 0$' pan.log || grep -q 'not completed' pan.log; then
    spin -t -p "$@" "$model" 2>&1 | tail -n 200 >&2 || true
    echo "$what: ${fault:-errors, but no word about them}" >&2
    exit 1
fi
echo "$what: $(awk '/states, stored/ {print $1}' pan.log) states, $(awk '/transitions/ {print $1}' pan.log) transitions, depth $(sed -n 's/.*depth reached \([0-9]*\).*/\1/p' pan.log), no fault"
