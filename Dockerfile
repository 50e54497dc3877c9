# syntax=docker/dockerfile:1
# Two images: `docker build --target node -t osai-node .` and `docker build --target coordinator -t osai-coordinator .`
#   docker run -v osai-node:/var/lib/osai -p 7071-7072:7071-7072 osai-node join HOST:7070 --announce THIS_HOST:7071
# The health checks ask the ports below: keep them, and map them to others outside if need be.
# For NVIDIA GPUs: `--build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130`.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

# Torch first and alone: the big layer stays cached while the source changes.
FROM ${PYTHON_IMAGE} AS torch
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY constraints.txt ./
RUN python -m venv /opt/osai \
    && /opt/osai/bin/pip install --no-deps --index-url "${TORCH_INDEX}" "$(grep '^torch==' constraints.txt)"

FROM torch AS wheel
COPY . .
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM torch AS node-venv
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    /opt/osai/bin/pip install -c constraints.txt "$(echo /wheels/osai-*.whl)[node]"

FROM torch AS coordinator-venv
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    /opt/osai/bin/pip install -c constraints.txt "$(echo /wheels/osai-*.whl)[coordinator]"

FROM ${PYTHON_IMAGE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.vendor="The osai authors" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The home folder is the state folder: identity, downloaded weights, the hub's cache.
RUN useradd --system --user-group --uid 10001 --create-home --home-dir /var/lib/osai --shell /usr/sbin/nologin osai
ENV PATH=/opt/osai/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/osai
VOLUME /var/lib/osai
STOPSIGNAL SIGTERM

FROM runtime AS coordinator
LABEL org.opencontainers.image.title="osai-coordinator" \
      org.opencontainers.image.description="Plans, routes and supervises an osai swarm and serves its HTTP interface."
COPY --from=coordinator-venv /opt/osai /opt/osai
# gRPC, libp2p, HTTP
EXPOSE 7070 7072 8080
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=3 CMD ["osai-coordinator", "health"]
ENTRYPOINT ["osai-coordinator"]
CMD ["serve", "--dht", "0.0.0.0:7072"]

FROM runtime AS node
LABEL org.opencontainers.image.title="osai-node" \
      org.opencontainers.image.description="Hosts a span of a model's layers in an osai swarm."
# The compiler makes osai's kernels for the processor that the container runs on, at the first start.
USER 0
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
USER 10001:10001
COPY --from=node-venv /opt/osai /opt/osai
ENV OSAI_NODE_JOIN_LISTEN=0.0.0.0:7071 OSAI_NODE_JOIN_DHT_LISTEN=0.0.0.0:7072
# gRPC, libp2p
EXPOSE 7071 7072
# A node that loads weights is not healthy yet: the start period leaves it the time.
HEALTHCHECK --interval=10s --timeout=10s --start-period=10m --retries=3 CMD ["osai-node", "health", "--address", "127.0.0.1:7071"]
ENTRYPOINT ["osai-node"]
CMD ["--help"]
