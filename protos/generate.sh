#!/bin/sh
# Makes the Python stubs in protos/gen from the .proto files, and the JSON Schemas in docs/schema.
# Usage: protos/generate.sh [OUT]; with OUT only the stubs, there.
set -eu
cd "$(dirname "$0")"
out=${1:-gen}
python=${PYTHON:-../.venv/bin/python}
PATH="$(dirname "$python"):$PATH"
mkdir -p "$out"
"$python" -m grpc_tools.protoc -I . \
    --python_out="$out" --grpc_python_out="$out" --mypy_out=quiet:"$out" --mypy_grpc_out=quiet:"$out" \
    $(find canary -name '*.proto' | sort)
[ $# -gt 0 ] || "$python" json_schema.py
