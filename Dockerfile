# For CPUs:  docker build -t mmsnclr --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
# For GPUs:  docker build -t mmsnclr --build-arg BASE=nvidia/cuda:12.8.1-devel-ubuntu24.04 --build-arg FORCE_CUDA=1 .
# Then:      docker run --gpus all --shm-size=8g -v "$PWD:/data" mmsnclr pretrain /data/photos --out /data/run
ARG BASE=debian:bookworm-slim
FROM ${BASE}

# mmcv's operators are built for CUDA where no device is seen, and for these architectures.
ARG FORCE_CUDA=0
# An index of torch's builds other than PyPI, whose builds bring 5 GB for CUDA.
ARG TORCH_INDEX=
ENV FORCE_CUDA=${FORCE_CUDA} TORCH_CUDA_ARCH_LIST="7.0;8.0;8.6;9.0+PTX" DEBIAN_FRONTEND=noninteractive

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates g++ libgl1 libglib2.0-0 make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /mmsnclr
COPY . .
RUN make install TORCH_INDEX=${TORCH_INDEX}

ENV PATH=/mmsnclr/.venv/bin:${PATH}
WORKDIR /data
ENTRYPOINT ["mmsnclr"]
CMD ["--help"]
