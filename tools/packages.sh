# Debian packages that the scripts need. Sourced by demo.sh and check.sh.

# What compiling needs, and what each is for.
build_packages=(
    gcc             # the compiler
    libc6-dev       # the C library's headers
    cmake           # configures the build
    ninja-build     # runs it
    pkg-config      # finds the libraries
    liburing-dev    # io_uring: the daemon's event loop and its disk reads
    libcjson-dev    # JSON: configuration, model files, command line
    libutf8proc-dev # Unicode classes for the tokenizers
)

# What testing needs besides.
check_packages=(
    git             # lists the sources that format and tidy look at
    g++             # the public header compiles as C++ too
    libcmocka-dev   # the unit test framework
    clang           # the second compiler, and libFuzzer
    clang-format    # the layout of the source
    clang-tidy      # static analysis
    libclang-rt-14-dev # sanitizer and fuzzer runtimes of clang
    mandoc          # checks the manual pages
    python3         # reads what the programs print as JSON; the Python binding
    python3-venv    # a fresh environment, into which the binding is installed
    python3-pip     # installs it from the tree
    python3-setuptools # what pip builds it with
    python3-wheel   # likewise
    xz-utils        # unpacks a vocabulary among the shared test data
    spin            # searches every state of the model of the protocol
    strace          # shows that a request makes no system call
    procps          # ps: the daemon's processor time in the idle test
)

# install_packages PACKAGE...: installs those that are missing, saying so.
install_packages() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return 0

    if ! command -v apt-get >/dev/null; then
        echo "This script installs what it needs with apt-get, which is not there. Please install: ${missing[*]}" >&2
        return 1
    fi
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "Installing packages needs root, and there is no sudo. As root, run: apt-get install ${missing[*]}" >&2
            return 1
        fi
        as_root=(sudo)
    fi
    echo "Installing with apt-get (tools/packages.sh tells what each is for): ${missing[*]}"
    local log
    log=$(mktemp)
    if ! { "${as_root[@]}" apt-get update -qq &&
           "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        echo "apt-get could not install: ${missing[*]}" >&2
        return 1
    fi
    rm -f "$log"
}
