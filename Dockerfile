# syntax=docker/dockerfile:1
# Two images of one osai, with all three programs in each; DOCKER_BUILDKIT=1 for older engines:
#   docker build --target cpu  -t osai:cpu .
#   docker build --target cuda -t osai:cuda .      # NVIDIA GPUs: run it with `--gpus all`
#   docker run -p 7070:7070 -p 8080:8080 osai:cpu osai-coordinator serve
#   docker run -p 7071-7072:7071-7072 -v osai-node:/var/lib/osai osai:cpu osai-node join HOST:7070 --announce THIS_HOST:7071
# The health check asks ports 7071 (node) and 7070 (coordinator): keep them, and map them to others outside if need be.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

# Torch first and alone: the big layer stays cached while the source changes.
FROM ${PYTHON_IMAGE} AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY constraints.txt ./
RUN python -m venv /opt/osai

FROM base AS wheels
COPY . .
RUN pip wheel --no-deps --wheel-dir /wheels . ./core/embedded_model

FROM base AS cpu-venv
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
RUN /opt/osai/bin/pip install --no-deps --index-url "${TORCH_CPU_INDEX}" "$(grep '^torch==' constraints.txt)"
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    /opt/osai/bin/pip install -c constraints.txt "$(echo /wheels/osai-*.whl)[all]" /wheels/osai_embedded-*.whl

# PyPI's own build of torch is the one for CUDA: it brings CUDA's libraries, so that the base image needs none.
FROM base AS cuda-venv
RUN /opt/osai/bin/pip install -c constraints.txt "$(grep '^torch==' constraints.txt)"
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    /opt/osai/bin/pip install -c constraints.txt "$(echo /wheels/osai-*.whl)[all,cuda]" /wheels/osai_embedded-*.whl

FROM ${PYTHON_IMAGE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="osai" \
      org.opencontainers.image.description="Serves large open models from machines none of which could hold one." \
      org.opencontainers.image.vendor="The osai authors" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
# The compiler alone: it makes the node's kernels for the processor that the container runs on, at the first start.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/* \
    && useradd --system --user-group --uid 10001 --create-home --home-dir /var/lib/osai --shell /usr/sbin/nologin osai
ENV PATH=/opt/osai/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    OSAI_NODE_JOIN_LISTEN=0.0.0.0:7071 OSAI_NODE_JOIN_DHT_LISTEN=0.0.0.0:7072 OSAI_COORDINATOR_SERVE_DHT_LISTEN=0.0.0.0:7072
# The home folder is the state folder: identity, certificates, caches of weights and kernels. The rest can be read-only.
USER 10001:10001
WORKDIR /var/lib/osai
VOLUME /var/lib/osai
STOPSIGNAL SIGTERM
# Coordinator: gRPC 7070, HTTP 8080. Node: its edge 7071. Both: libp2p 7072.
EXPOSE 7070 7071 7072 8080
# A container runs one of the two. A node that loads weights is not healthy yet: the start period leaves it the time.
HEALTHCHECK --interval=10s --timeout=15s --start-period=10m --retries=3 \
    CMD ["/bin/sh", "-c", "osai-node health || osai-coordinator health"]
CMD ["osai", "--help"]

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=cuda-venv /opt/osai /opt/osai

# The last one is what `docker build .` makes.
FROM runtime AS cpu
COPY --from=cpu-venv /opt/osai /opt/osai
