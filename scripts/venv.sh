# shellcheck shell=bash
# Sourced by ./check and ./demo, from the checkout's root: one virtual environment, made once and kept up to date.
#
#   VENV=folder       where it lives, seen from the checkout (default: .venv)
#   PYTHON=command    what makes it (default: the first Python found that is 3.10 or newer)
#   GNT_TORCH=torch   which torch goes in (default: torch==2.13.0, so that runs can be compared)

VENV=${VENV:-.venv}
case $VENV in /*) ;; *) VENV=$PWD/$VENV ;; esac
export PIP_DISABLE_PIP_VERSION_CHECK=1
# Nothing from outside may stand before the environment's own packages, and what was imported once stays compiled.
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

# Modules are compiled when first imported: compiling all of torch takes longer than installing it.
pip_install() { "$VENV/bin/python" -m pip install -qq --no-compile "$@"; }

# ready_venv EXTRA: the environment holds gnt (editable) with that extra. Does nothing where it already does.
ready_venv() {
  local torch=${GNT_TORCH:-torch==2.13.0} python wanted extra
  wanted="$torch $(cat pyproject.toml setup.cfg | cksum)"
  if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    say "making $VENV with $("$python" --version)"
    "$python" -m venv "$VENV" || die "could not make $VENV (on Debian and Ubuntu: install python3-venv)"
    echo '*' >"$VENV/.gitignore" # wherever it lies, git and ruff look past it
  fi
  for extra in "$1" dev; do # dev holds all the others
    if [[ $(cat "$VENV/gnt-ready-$extra" 2>/dev/null) == "$wanted" ]]; then return; fi
  done
  # torch first: left to itself, pip takes the newest, on some systems with gigabytes of CUDA packages.
  say "installing $torch"
  pip_install "$torch"
  say "installing gnt with its $1 extra"
  pip_install --editable ".[$1]"
  rm -f "$VENV"/gnt-ready-*
  echo "$wanted" >"$VENV/gnt-ready-$1"
}
