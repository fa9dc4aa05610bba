# shellcheck shell=bash
# Sets up the virtual environment of ./check and ./demo, which source this file from the root of the checkout.
#
#   VENV=folder       its folder, absolute or relative to the checkout (default: .venv)
#   PYTHON=command    the Python to create it with (default: the first one found that is 3.10 or newer)
#   GNT_TORCH=torch   the requirement of torch to install (default: torch==2.13.0, so that runs can be compared)

VENV=${VENV:-.venv}
case $VENV in /*) ;; *) VENV=$PWD/$VENV ;; esac
export PIP_DISABLE_PIP_VERSION_CHECK=1
# Settings that would put other packages before the environment's, or keep Python from caching compiled modules.
unset PYTHONPATH PYTHONHOME PYTHONSAFEPATH PYTHONDONTWRITEBYTECODE

say() { printf '== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  die "no Python 3.10 or newer found (tried ${PYTHON:-python3, python3.10 to 3.13, python}); set PYTHON to one"
}

# --no-compile: compiling all of torch takes longer than installing it; modules are compiled at their first import.
pip_install() { "$VENV/bin/python" -m pip install -qq --no-compile "$@"; }

# ready_venv EXTRA: install gnt (editable) with that extra, creating the environment if needed. Does nothing if it is
# already installed from the same pyproject.toml and setup.cfg.
ready_venv() {
  local torch=${GNT_TORCH:-torch==2.13.0} python wanted extra
  wanted="$torch $(cat pyproject.toml setup.cfg | cksum)"
  if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    say "creating $VENV with $("$python" --version)"
    "$python" -m venv "$VENV" || die "could not create $VENV (on Debian and Ubuntu: install python3-venv)"
    echo '*' >"$VENV/.gitignore" # git and ruff ignore it
  fi
  for extra in "$1" dev; do # dev contains all other extras
    if [[ $(cat "$VENV/gnt-ready-$extra" 2>/dev/null) == "$wanted" ]]; then return; fi
  done
  # torch first: otherwise pip would install the newest version, on some systems with gigabytes of CUDA packages.
  say "installing $torch"
  pip_install "$torch"
  say "installing gnt with its $1 extra"
  pip_install --editable ".[$1]"
  rm -f "$VENV"/gnt-ready-*
  echo "$wanted" >"$VENV/gnt-ready-$1"
}
