#!/usr/bin/env bash
# Gives each rank one GPU of its node: mpirun -n 4 launch/bind_gpu.sh silofl train launch/digits.toml
# Not needed for `silofl train` itself, which picks the GPU of its local rank; useful where a site's own
# programs, or MPI's GPU support, must see one device only.
set -euo pipefail
rank=${OMPI_COMM_WORLD_LOCAL_RANK:-${MPI_LOCALRANKID:-${SLURM_LOCALID:-0}}}
gpus=${CUDA_VISIBLE_DEVICES:-$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | paste -sd, -)}
if [ -n "$gpus" ]; then
  IFS=, read -ra list <<< "$gpus"
  export CUDA_VISIBLE_DEVICES=${list[rank % ${#list[@]}]}
fi
exec "$@"
