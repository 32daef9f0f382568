#!/usr/bin/env bash
# What needs a GPU, on a machine that has one: builds the addon and the CUDA programs for it, checks every kernel and whole models
# against the CPU, and measures. A stage that fails, or runs past its time, never stops the next.
#
#   scripts/gpu-check.sh [stage ...]     all stages but `parallel`, in this order, where none is named:
#     build     addon and programs for one architecture (FILIGREE_CUDA_ARCHITECTURES, 90a-real unless set)
#     layers    attention, norms and SwiGLU against float64
#     kernels   linear kernels against float64
#     models    random models on GPU and CPU, --deterministic, and goldens where a model is there
#     parallel  two GPUs and NCCL: a divided model against the whole one, and the speed of both (libnccl.so.2 in LD_LIBRARY_PATH)
#     kv        decoding of 1 and 16 sequences with an f16, i8 and fp8 cache
#     tune      launch shapes of Llama-2-7B's shape (SHAPE) timed and kept in a cache folder of its own, then decoding with them
#     serve     `serve --device cuda` (DEVICE) of Llama-2-7B's shape (SHAPE), with an f16 cache (KV: one or several), under `bench serve`,
#               dense and sparse (ROWS, of: dense bf16 i8 i4 deterministic), then, with an f16 cache, the i8 row with no step begun ahead
#     torch     a decode loop of 7B in PyTorch and one CUDA graph, for `serve` to be compared with (PYTHON, python3 unless set)
#     bench     attention of decoding; linear kernels against cuBLAS (BENCH_TUNE=13: the best of so many launches beside the planned one)
#     sanitize  compute-sanitizer, memcheck and racecheck, on a small part of the kernels
#     suite     engine and server tests with FILIGREE_TEST_DEVICE=cuda
#     e2e       the program's tests likewise; they need a real model (FILIGREE_TEST_MODEL)
#
# SLOW=2 gives each twice its time (where others run beside it), UNTIL (seconds of `date +%s`) ends all, KEEP=1 leaves what `serve` loads for its next run.
#
# Needs CMake, Ninja, nvcc 13, a C++20 compiler, node (NODE names another), node_modules, and dist (npm run build). Logs and figures
# go to $OUT (gpu-check/ unless set), files of gigabytes to $SCRATCH (a temporary folder).
set -u
cd "$(dirname "$0")/.."
OUT=${OUT:-$PWD/gpu-check}
SCRATCH=${SCRATCH:-$(mktemp -d)}
NODE=${NODE:-node}
PYTHON=${PYTHON:-python3}
SHAPE=${SHAPE:-7b}
export FILIGREE_CUDA=ON FILIGREE_CUDA_ARCHITECTURES=${FILIGREE_CUDA_ARCHITECTURES:-90a-real}
mkdir -p "$OUT"
programs=build/test-cuda

stage() { # name, seconds, command...
  local name=$1 limit=$(($2 * ${SLOW:-1})) left start=$SECONDS status
  shift 2
  left=$((${UNTIL:-9999999999} - $(date +%s)))
  [ $limit -gt $left ] && limit=$left
  [ $limit -lt 10 ] && { echo "$name: not run, there was no time left" | tee -a "$OUT/summary.txt"; return; }
  export -f build layers kernels models parallel kv tune serve serve_row torch bench sanitize suite e2e vitest
  export OUT SCRATCH NODE PYTHON SHAPE programs
  timeout -k 5 "$limit" bash -c "$*" >"$OUT/$name.log" 2>&1
  status=$?
  local what=ok
  [ $status = 0 ] || what="FAILED ($status)"
  [ $status = 124 ] && what="FAILED (over $limit s)"
  echo "$name: $what, $((SECONDS - start)) s" | tee -a "$OUT/summary.txt"
  [ $status = 0 ] || tail -n 12 "$OUT/$name.log" | cut -c1-300
}

build() {
  cmake -G Ninja -S . -B build -DCMAKE_BUILD_TYPE=Release -DFILIGREE_TESTS=ON \
    -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$PWD/build/Release" \
    "-DCMAKE_JS_INC=$PWD/node_modules/node-api-headers/include;$PWD/node_modules/node-addon-api" &&
    ninja -C build filigree filigree_cuda_kernels_test filigree_cuda_layers_test filigree_cuda_kernels_bench filigree_cuda_layers_bench &&
    { "$NODE" dist/src/main.js doctor --no-measure || true; }
}

layers() { $programs/filigree_cuda_layers_test; }
kernels() { $programs/filigree_cuda_kernels_test; }

vitest() { FILIGREE_TEST_DEVICE=cuda "$NODE" node_modules/vitest/vitest.mjs run --reporter=verbose "$@"; }
parallel() {
  vitest test/conformance/devices.test.ts -t 'two GPUs' &&
    "$NODE" dist/src/main.js bench --device cuda --shape "$SHAPE" --formats bf16 --sparsity 0,0.7 --batch 1,16 --context 512 --rounds 3 --tensor-parallel 1,2
}
kv() {
  "$NODE" dist/src/main.js bench --device cuda --shape "$SHAPE" --formats bf16 --sparsity 0,0.7 --batch 1,16 --context 512 --rounds 3 --kv f16,i8,fp8
}
tune() {
  local cache="$SCRATCH/tuned" folder
  FILIGREE_CACHE=$cache "$NODE" dist/src/main.js bench kernels --device cuda --tune --shape "$SHAPE" --formats bf16,i8,i4g128 &&
    cat "$cache/gpu-plans.txt" &&
    for folder in "$SCRATCH/untuned" "$cache"; do
      FILIGREE_CACHE=$folder "$NODE" dist/src/main.js bench --device cuda --shape "$SHAPE" --formats bf16,i8 --sparsity 0.7 --batch 8,16,32 --context 512 --rounds 3
    done
}

models() { vitest test/conformance/devices.test.ts; }
# Kubernetes manifests have nothing to do with a device.
suite() { vitest test/binding test/unit/server test/stress/real-model.test.ts --exclude '**/manifests.test.ts'; }
e2e() { vitest test/e2e/commands.test.ts test/e2e/tools.test.ts test/e2e/neighbours.test.ts test/e2e/openapi.test.ts; }

torch() { "$PYTHON" bench/torch_decode.py; }

bench() {
  local tune=${BENCH_TUNE:-0}
  $programs/filigree_cuda_layers_bench
  $programs/filigree_cuda_kernels_bench --zeros 0.7 --tune "$tune" --what lanes,tiles,2:4 --tokens 1,2,4,8,16,32
  $programs/filigree_cuda_kernels_bench --zeros 0.5 --tune "$tune" --what lanes,tiles --tokens 1,8,16
}

sanitize() {
  local status=0 tool program
  for tool in memcheck racecheck; do
    for program in layers kernels; do
      echo "== $tool, $program"
      timeout --foreground 150 compute-sanitizer --tool $tool --error-exitcode 9 $programs/filigree_cuda_${program}_test --quick || status=$?
    done
  done
  return $status
}

# One server, then its loads: prompts of about 512 tokens, 128 tokens of an answer, 1 and 16 clients.
serve_row() { # name, share of zeros, flags of serve...
  local name=$1 zeros=$2 kv=$3 file="$SCRATCH/$SHAPE-$2.gguf" start=$SECONDS pid url clients
  shift 3
  [ -e "$file" ] || "$NODE" dist/src/main.js bench gguf "$file" --shape "$SHAPE" --type q8_0 --sparsity "$zeros" || return
  "$NODE" dist/src/main.js serve "$file" --device "${DEVICE:-cuda}" --port 0 --max-num-seqs 16 --max-model-len 1024 --kv-memory 10GiB --kv "$kv" \
    --no-prefix-cache --no-packed-cache --log-level warn "$@" >"$SCRATCH/ready" 2>&1 &
  pid=$!
  for _ in $(seq 240); do
    url=$(grep -oE 'http://127\.0\.0\.1:[0-9]+' "$SCRATCH/ready" | head -n 1)
    [ -n "$url" ] && break
    kill -0 $pid 2>/dev/null || break
    sleep 0.5
  done
  echo "== $name, $kv cache: ready after $((SECONDS - start)) s"
  cat "$SCRATCH/ready"
  if [ -n "$url" ]; then
    # The first answers capture graphs and load kernels.
    "$NODE" dist/src/main.js bench serve --url "$url" --prompts "$SCRATCH/prompts" --concurrency 16 --requests 16 --max-tokens 24 >/dev/null
    for clients in 1 16; do
      "$NODE" dist/src/main.js bench serve --url "$url" --prompts "$SCRATCH/prompts" --concurrency $clients \
        --requests $((clients == 1 ? 6 : 48)) --max-tokens 128
    done
  fi
  kill -KILL $pid 2>/dev/null
  wait $pid 2>/dev/null
  [ -n "$url" ]
}

serve() {
  local status=0
  # A random vocabulary spells words in bytes: nine tokens for each of these.
  "$NODE" -e 'for (let i = 0; i < 64; i++) console.log(Array.from({ length: 57 }, (_, j) => `w${10000 + ((i * 7919 + j * 104729) % 89999)}`).join(" "))' >"$SCRATCH/prompts"
  local row kv
  for kv in ${KV:-f16}; do
    for row in ${ROWS:-dense bf16 i8 i4 deterministic}; do
      case $row in
        dense) serve_row "dense bf16" 0 "$kv" --weights bf16 ;;
        deterministic) serve_row "70 % zeros, bf16, deterministic" 0.7 "$kv" --weights bf16 --deterministic ;;
        *) serve_row "70 % zeros, $row" 0.7 "$kv" --weights "$row" ;;
      esac || status=1
    done
    [ "$kv" = f16 ] && { FILIGREE_LOOK_AHEAD=0 serve_row "70 % zeros, i8, no step begun ahead" 0.7 "$kv" --weights i8 || status=1; }
  done
  [ -n "${KEEP:-}" ] || rm -f "$SCRATCH/$SHAPE"-*.gguf
  return $status
}

[ $# -gt 0 ] || set -- build layers kernels models kv tune serve torch bench sanitize suite e2e
for name in "$@"; do
  case $name in
    build) stage build 240 build ;;
    layers) stage layers 90 layers ;;
    kernels) stage kernels 150 kernels ;;
    models) stage models 200 models ;;
    parallel) stage parallel 240 parallel ;;
    kv) stage kv 240 kv ;;
    tune) stage tune 240 tune ;;
    serve) stage serve "${SERVE_LIMIT:-330}" serve ;;
    torch) stage torch 120 torch ;;
    bench) stage bench 240 bench ;;
    sanitize) stage sanitize 400 sanitize ;;
    suite) stage suite 240 suite ;;
    e2e) stage e2e 300 e2e ;;
    *) echo "no stage is called $name" && exit 2 ;;
  esac
done
cat "$OUT/summary.txt"
