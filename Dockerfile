# syntax=docker/dockerfile:1
# Images that contain the wheel of this checkout and nothing of its build.
#
#     docker build --target cpu -t cconvnet:cpu .
#     docker run --rm -v "$PWD:/work" cconvnet:cpu train
#
#     docker build --target cuda -t cconvnet:cuda .        # no GPU is needed to build
#     docker run --rm --gpus all -v "$PWD:/work" cconvnet:cuda train --net alexnet --data imagenet
#
# Runs are written into /work. Give `--user "$(id -u):$(id -g)"` to own them.

FROM python:3.13-slim-bookworm AS build-cpu
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN make wheel CCONVNET_CUDA=off

FROM python:3.13-slim-bookworm AS cpu
RUN --mount=type=bind,from=build-cpu,source=/source/dist,target=/dist \
    pip install --no-cache-dir /dist/*.whl matplotlib simplejpeg
ENV HOME=/tmp
WORKDIR /work
ENTRYPOINT ["cconvnet"]
CMD ["train"]

FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS build-cuda
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN make wheel CCONVNET_CUDA=on

# CuPy compiles its own small kernels at run time: its extra ctk contains the libraries that this needs.
FROM nvidia/cuda:13.0.1-base-ubuntu24.04 AS cuda
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/cconvnet
ENV PATH=/opt/cconvnet/bin:$PATH
RUN --mount=type=bind,from=build-cuda,source=/source/dist,target=/dist \
    pip install --no-cache-dir /dist/*.whl matplotlib simplejpeg 'cupy-cuda13x[ctk]'
ENV HOME=/tmp
WORKDIR /work
ENTRYPOINT ["cconvnet"]
CMD ["train"]
