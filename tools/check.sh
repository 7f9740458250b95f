#!/usr/bin/env bash
# Installs what testing needs, builds every preset and runs every test.
set -euo pipefail

usage='Usage: tools/check.sh [STAGE...]
Without a STAGE all of them, in this order:
  format    clang-format is content with the source
  dev       warnings are errors; every test, and the search of the model of the protocol
  tidy      clang-tidy is content (after dev)
  asan      every test under AddressSanitizer and UndefinedBehaviorSanitizer
  tsan      every test under ThreadSanitizer
  clang     the tree compiles without a warning with clang too
  coverage  the tests take every branch of the code that judges foreign memory and messages
  fuzz      every fuzz target for a few seconds (FUZZ_SECONDS, default 10), and fuzz_region
            FUZZ_RUNS times (default 10000000) on all processors
  pages     the manual pages
  demo      tools/demo.sh, and what it leaves behind'
stages=(format dev tidy asan tsan clang coverage fuzz pages demo)

cd "$(dirname "$0")/.."
. tools/packages.sh

case "${1:-}" in
--help) echo "$usage"; exit 0 ;;
esac
for stage in "$@"; do
    case " ${stages[*]} " in
    *" $stage "*) ;;
    *) echo "check.sh: $stage is not a stage." >&2; echo "$usage" >&2; exit 2 ;;
    esac
done
[ $# -gt 0 ] && stages=("$@")

jobs=$(nproc)
sources() { git ls-files -- '*.c' '*.h'; }

build() { # PRESET: quiet unless it fails
    local log
    log=$(mktemp)
    if ! { cmake --preset "$1" && cmake --build --preset "$1"; } >"$log" 2>&1; then
        tail -n 60 "$log"
        rm -f "$log"
        echo "The build of preset $1 failed; its last lines are above."
        return 1
    fi
    rm -f "$log"
}

stage_format() {
    sources | xargs clang-format --dry-run -Werror
}

# test_preset PRESET: runs the tests, and notes in $skips what was skipped and why: whole programs that ctest
# calls skipped, and single tests of a program that passed.
test_preset() {
    local status=0
    ctest --preset "$1" -j "$jobs" || status=$?
    awk -v preset="$1" '
        function flush_test(    why) {
            if (!skipped) return
            for (why in reasons) print preset ": " name ": " why
            if (!length(reasons)) print preset ": " name ": no reason given"
        }
        /^[0-9]+\/[0-9]+ Test: / { flush_test(); name = $3; skipped = 0; delete reasons; next }
        /^Test Skipped/ || /^\[  SKIPPED \]/ || /\.\.\. skipped / { skipped = 1 }
        /\*\*\* SKIPPED/ { skipped = 1; sub(/.*\*\*\* SKIPPED( here)?: /, ""); reasons[$0] }
        /\.\.\. skipped / { sub(/.*\.\.\. skipped /, ""); reasons[$0] }
        END { flush_test() }' "build/$1/Testing/Temporary/LastTest.log" >>"$skips"
    return $status
}

stage_dev() {
    build dev
    test_preset dev
}

stage_tidy() {
    [ -f build/dev/compile_commands.json ] || build dev
    git ls-files -- 'client/*.c' 'daemon/*.c' 'formats/*.c' 'kernels/*.c' 'model/*.c' 'shm/*.c' 'tools/*.c' |
        xargs -P "$jobs" -n 4 clang-tidy -p build/dev --quiet
}

stage_asan() {
    build asan
    test_preset asan
}

stage_tsan() {
    build tsan
    test_preset tsan
}

stage_clang() {
    build clang
}

stage_coverage() {
    build coverage
    find build/coverage -name '*.gcda' -delete
    test_preset coverage
    tests/coverage/branches.py build/coverage
}

# fuzz NAME OPTION...: one run of a target from its corpus; prints how many executions it made. In a
# subshell of its own, so that whoever ends it ends the target too.
fuzz() (
    name=$1 target=''
    shift
    scratch=$(mktemp -d)
    trap 'kill $target 2>/dev/null || true; rm -rf "$scratch"; exit 130' INT TERM
    mkdir "$scratch/corpus"
    "build/fuzz/tests/fuzz/$name" "$@" -artifact_prefix="$scratch/" -rss_limit_mb=4096 -print_final_stats=1 \
        "$scratch/corpus" "tests/fuzz/corpus/$name" >"$scratch/log" 2>&1 &
    target=$!
    if ! wait "$target"; then
        tail -n 60 "$scratch/log" >&2
        echo "$name: a finding; its input is in $scratch" >&2
        return 1
    fi
    sed -n 's/^stat::number_of_executed_units: *//p' "$scratch/log"
    rm -rf "$scratch"
)

stage_fuzz() {
    build fuzz
    pids=() counts=$(mktemp -d) # not local: the trap has to know them
    trap 'kill "${pids[@]}" 2>/dev/null || true; rm -rf "$counts"' EXIT
    trap 'exit 130' INT TERM
    local target name total=0 runs wanted=${FUZZ_RUNS:-10000000} seconds=${FUZZ_SECONDS:-10} i
    for target in build/fuzz/tests/fuzz/fuzz_*; do
        name=$(basename "$target")
        [ -x "$target" ] && [ -f "$target" ] && [ "$name" != fuzz_region ] || continue
        runs=$(fuzz "$name" -max_total_time="$seconds")
        echo "$name: $runs executions in $seconds s"
        total=$((total + runs))
    done

    # Without the stacks of allocations, of which the harness makes none, and without telling inputs
    # apart by how often they take an edge: together that takes as much time as the rest.
    local start=$SECONDS each=$(((wanted + jobs - 1) / jobs)) status=0
    export ASAN_OPTIONS=$ASAN_OPTIONS:malloc_context_size=0:quarantine_size_mb=1
    for ((i = 0; i < jobs; i++)); do
        fuzz fuzz_region -runs="$each" -max_len=512 -use_counters=0 -entropic=0 \
            >"$counts/$i" &
        pids+=($!)
    done
    for i in "${pids[@]}"; do
        wait "$i" || status=1
    done
    pids=()
    [ $status -eq 0 ] || return 1
    runs=$(($(cat "$counts"/* | paste -sd+)))
    echo "fuzz_region: $runs executions in $((SECONDS - start)) s on $jobs processors"
    echo "fuzz: $((total + runs)) executions, no finding"
    [ "$runs" -ge "$wanted" ]
}

stage_pages() {
    mandoc -Tlint -Wwarning docs/man/*.[0-9]
}

stage_demo() {
    tools/demo.sh
}

install_packages "${build_packages[@]}" "${check_packages[@]}"
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1:strict_string_checks=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-halt_on_error=1}

failed=()
skips=$(mktemp)
trap 'rm -f "$skips"' EXIT
trap 'exit 130' INT TERM # no further stage
for stage in "${stages[@]}"; do
    printf '\n==> %s\n' "$stage"
    start=$SECONDS
    # In a subshell with its own -e, so that the first failing command ends the stage, not the run.
    set +e
    (set -e; "stage_$stage")
    status=$?
    set -e
    if [ $status -eq 0 ]; then
        echo "$stage: passed in $((SECONDS - start)) s"
    else
        echo "$stage: FAILED after $((SECONDS - start)) s"
        failed+=("$stage")
    fi
done

echo
if [ -s "$skips" ]; then
    echo "Skipped, and why:"
    sed 's/^/  /' "$skips"
fi
if [ ${#failed[@]} -gt 0 ]; then
    echo "check.sh: failed: ${failed[*]} (of ${stages[*]}); $SECONDS s"
    exit 1
fi
echo "check.sh: all passed: ${stages[*]}; $SECONDS s"
