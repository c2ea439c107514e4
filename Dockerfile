# The project as an image, for a CPU or for NVIDIA GPUs:
#
#   docker build -t mscn .
#   docker build -t mscn --build-arg BASE=nvidia/cuda:12.8.1-base-ubuntu24.04 --build-arg TORCH_INDEX= .
#   docker run --gpus all --shm-size=16g -v /data:/data -e DETECTRON2_DATASETS=/data -v "$PWD/runs:/home/mscn/runs" \
#       mscn mscn-train-det --config voc_mscn.yaml --weights /data/moco_v2.pkl --output runs/voc
#
# The base must have Debian's or Ubuntu's packages and Python 3.10 or newer in them.
ARG BASE=ubuntu:24.04
# hadolint ignore=DL3006
FROM ${BASE}

# Where PyTorch comes from: by default its builds without CUDA, which are much smaller; empty: pip's own
# index, whose builds are with CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# Security updates of the base's own Python are wanted, so no version is fixed.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/mscn \
    && useradd --create-home --uid 1001 mscn
ENV PATH=/opt/mscn/bin:$PATH

WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} torch torchvision
COPY . .
RUN pip install --no-cache-dir -c constraints.txt ".[fast,vitdet]"

USER 1001
WORKDIR /home/mscn
CMD ["mscn-doctor"]
