#!/bin/sh
# check_symbols.sh LIBRARY HEADER MAP
#
# The symbols that the shared library exports, those that its map lists and the functions that the
# header declares are the same. $NM names another nm.
set -eu
export LC_ALL=C
library=$1
header=$2
map=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${NM:-nm}" -D --defined-only "$library" |
    awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort -u >"$work/exported"
# Declarations only: comments and preprocessor lines (continued ones too) are left out.
awk '/^#/ || continued { continued = /\\$/; next } { print }' "$header" |
    sed -e ':a' -e 's,/\*[^*]*\*/,,g' | tr '\n' ' ' | sed -e 's,/\*\([^*]\|\*[^/]\)*\*/,,g' |
    grep -oE 'agl_[a-z0-9_]+ *\(' | tr -d '( ' | sort -u >"$work/declared"
sed -n -e 's,#.*,,' -e 's,^ *\(agl_[a-z0-9_]*\);.*,\1,p' "$map" | sort -u >"$work/listed"

failed=0
for pair in "exported declared" "declared listed"; do
    # shellcheck disable=SC2086
    set -- $pair
    if ! diff "$work/$1" "$work/$2" >"$work/difference"; then
        printf 'symbols differ (< %s, > %s):\n' "$1" "$2" >&2
        cat "$work/difference" >&2
        failed=1
    fi
done
if [ "$(wc -l <"$work/declared")" -lt 10 ]; then
    printf '%s: hardly any function found: this check shows nothing\n' "$header" >&2
    failed=1
fi
[ "$failed" -eq 0 ] && printf '%s symbols, all the same\n' "$(wc -l <"$work/declared")"
exit "$failed"
