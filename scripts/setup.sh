#!/bin/sh
# Make a virtual environment with this package in it: scripts/setup.sh VENV EXTRAS
# With "test" among the extras, also install what a napari window needs on Linux.
set -eu
venv=$1
extras=$2
python=${PYTHON:-python3}

# Install Debian packages, if this is Debian (or Ubuntu) and we may.
apt_install() {
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" = 0 ]; then
        as_root=
    elif sudo -n true 2>/dev/null; then
        as_root="sudo -n"
    else
        return 1
    fi
    echo "installing with apt: $*"
    $as_root apt-get update -qq
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

command -v "$python" >/dev/null || {
    echo "no $python found: install Python 3.11 or newer, or say which: PYTHON=python3.12" >&2
    exit 1
}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$("$python" --version) is too old: 3.11 or newer is needed. With another one installed," \
        "say which: make demo PYTHON=python3.12" >&2
    exit 1
}

# Debian keeps the parts of Python that make a virtual environment in a package of its own
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    apt_install python3-venv || {
        echo "Python's venv module is missing and could not be installed from here. On Debian" \
            "and Ubuntu: sudo apt-get install python3-venv" >&2
        exit 1
    }
fi

# Without these Qt finds no display and napari no OpenGL (library:package)
if [ "${extras#*test}" != "$extras" ] && [ "$(uname)" = Linux ]; then
    present=$({ ldconfig -p || /sbin/ldconfig -p; } 2>/dev/null) || present=
    missing=
    for pair in \
        libGL.so.1:libgl1 libEGL.so.1:libegl1 libglib-2.0.so.0:libglib2.0-0 \
        libdbus-1.so.3:libdbus-1-3 libfontconfig.so.1:libfontconfig1 \
        libxkbcommon-x11.so.0:libxkbcommon-x11-0 libxcb-cursor.so.0:libxcb-cursor0 \
        libxcb-icccm.so.4:libxcb-icccm4 libxcb-keysyms.so.1:libxcb-keysyms1 \
        libxcb-shape.so.0:libxcb-shape0; do
        case $present in
            *"${pair%%:*}"*) ;;
            *) missing="$missing ${pair##*:}" ;;
        esac
    done
    command -v Xvfb >/dev/null || missing="$missing xvfb"
    # shellcheck disable=SC2086 # a list of words
    if [ -n "$missing" ] && ! apt_install $missing; then
        echo "These packages are missing and could not be installed from here:$missing" >&2
        echo "The tests that open a window will be skipped. On Debian and Ubuntu:" >&2
        echo "    sudo apt-get install --no-install-recommends$missing" >&2
    fi
fi

"$python" -m venv "$venv"
echo "installing into $venv (the first time takes a minute or more)"
"$venv/bin/python" -m pip install --quiet --editable ".[$extras]" --constraint constraints.txt
