#!/bin/sh
# test_install.sh BUILD_FOLDER LIBDIR C_COMPILER CXX_COMPILER MANDIR DOCDIR
#
# Installs the library into an empty prefix, moves the prefix, and builds and runs a program against it
# as C99 and as C++, found by pkg-config and by find_package(). The examples compile by the command
# that they show, and every function has a page. 77: skipped.
set -eu
build=$1
libdir=$2
cc=$3
cxx=$4
mandir=$5
docdir=$6
source=$(cd "$(dirname "$0")" && pwd)/program.c
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for file in "$build"/client/libautoglm.so.*; do
    [ -e "$file" ] || { printf '%s: not built\n' "$file" >&2; exit 1; }
done
for part in client packaging; do
    cmake -DCMAKE_INSTALL_PREFIX="$work/first" -P "$build/$part/cmake_install.cmake" >"$work/log" ||
        { cat "$work/log" >&2; exit 1; }
done
mv "$work/first" "$work/prefix"
prefix=$work/prefix
for file in include/autoglm.h "$libdir/libautoglm.so" "$libdir/libautoglm.so.0" \
    "$libdir/pkgconfig/autoglm.pc" "$libdir/cmake/autoglm/autoglm-config.cmake"; do
    [ -e "$prefix/$file" ] || { printf '%s: not installed\n' "$file" >&2; exit 1; }
done
export LD_LIBRARY_PATH="$prefix/$libdir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"

# pkg-config
export PKG_CONFIG_PATH="$prefix/$libdir/pkgconfig"
flags=$(pkg-config --cflags --libs autoglm)
cp "$source" "$work/program.cpp"
# shellcheck disable=SC2086
"$cc" -std=c99 -pedantic-errors -Wall -Wextra -Werror "$source" $flags -o "$work/c99"
"$work/c99"
# shellcheck disable=SC2086
"$cxx" -std=c++11 -pedantic-errors -Wall -Wextra -Werror -Wno-missing-field-initializers \
    "$work/program.cpp" $flags -o "$work/cpp"
"$work/cpp"

# The examples as they are installed, by the command in each.
export AUTOGLM_SOCKET="$work/none"
for example in "$prefix/$docdir"/examples/*.c; do
    name=$(basename "$example" .c)
    command=$(sed -n 's/^ \*   cc \(.*\)/\1/p' "$example")
    [ "$name" != hello ] || command='hello.c $(pkg-config --cflags --libs autoglm) -o hello'
    (cd "$work" && cp "$example" . && eval "'$cc' $command") ||
        { printf '%s: does not compile by "cc %s"\n' "$example" "$command" >&2; exit 1; }
    if "$work/$name" </dev/null >"$work/log" 2>&1 || ! grep -q "$AUTOGLM_SOCKET" "$work/log"; then
        cat "$work/log" >&2
        printf '%s: does not say that no daemon is there\n' "$name" >&2
        exit 1
    fi
done

# A page for every function, by its own name.
functions=$(nm -D --defined-only "$prefix/$libdir/libautoglm.so" | sed -n 's/.* T \(agl_[a-z0-9_]*\).*/\1/p')
[ "$(printf '%s\n' "$functions" | wc -l)" -ge 30 ] || { printf 'hardly any function found\n' >&2; exit 1; }
for name in $functions; do
    target=$(sed -n 's/^\.so //p' "$prefix/$mandir/man3/$name.3")
    grep -q "^\.Nm $name" "$prefix/$mandir/${target:-man3/$name.3}" ||
        { printf '%s: no page\n' "$name" >&2; exit 1; }
done

# find_package(), with the version that the header says
version=$(pkg-config --modversion autoglm)
mkdir "$work/project"
cp "$source" "$work/project/program.c"
cp "$source" "$work/project/program.cpp"
cat >"$work/project/CMakeLists.txt" <<END
cmake_minimum_required(VERSION 3.25)
project(uses_autoglm LANGUAGES C CXX)
set(CMAKE_C_STANDARD 99)
find_package(autoglm $version REQUIRED)
add_executable(program_c program.c)
target_link_libraries(program_c PRIVATE autoglm::autoglm)
add_executable(program_cpp program.cpp)
target_link_libraries(program_cpp PRIVATE autoglm::autoglm)
END
cmake -G Ninja -S "$work/project" -B "$work/project/build" -DCMAKE_PREFIX_PATH="$prefix" \
    -DCMAKE_C_COMPILER="$cc" -DCMAKE_CXX_COMPILER="$cxx" >"$work/log" 2>&1 &&
    cmake --build "$work/project/build" >>"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
"$work/project/build/program_c"
"$work/project/build/program_cpp"
