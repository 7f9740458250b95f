#!/bin/sh
# expect_failure.sh PATTERN PROGRAM [ARGUMENT...]
#
# Succeeds if the program fails and says PATTERN: for programs with one ordering weakened, which the
# test must notice. 77: skipped, since the program skipped itself or the sanitizer cannot run here.
pattern=$1
shift
output=$("$@" 2>&1)
code=$?
case $output in
*"FATAL: ThreadSanitizer"*)
    printf '\n*** SKIPPED: ThreadSanitizer does not run here:\n%s\n\n' "$output" >&2
    exit 77
    ;;
esac
if [ "$code" -eq 77 ]; then
    printf '%s\n' "$output" >&2
    exit 77
fi
if [ "$code" -eq 0 ]; then
    printf '%s\n%s: did not fail: the weakened ordering went unnoticed\n' "$output" "$1" >&2
    exit 1
fi
case $output in
*"$pattern"*)
    printf '%s failed as it must (exit code %s): %s\n' "$1" "$code" "$pattern"
    exit 0
    ;;
esac
printf '%s\n%s: failed with exit code %s, but not for "%s"\n' "$output" "$1" "$code" "$pattern" >&2
exit 1
