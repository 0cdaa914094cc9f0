# The worker's image; docs/operations.md tells how it is built, pushed, checked and rolled out.
#
# Three layers are ours, in the order of how seldom they change. A node that has run the release before pulls
# what changed since, which for a change of code is the last one, of a few megabytes:
#   1. torch and CUDA's libraries   requirements/torch.txt
#   2. all other libraries          requirements/runtime.txt
#   3. the worker                   consumer/, contracts/, pipeline_steps/
# Packages come as wheels only, each checked against its hash: nothing is compiled, so no stage has a compiler.

# The Python that the tests and the locks are for. A build that must be the same next year names a digest:
# --build-arg PYTHON=python:3.11.14-slim-trixie@sha256:...
ARG PYTHON=python:3.11.14-slim-trixie


# Each of the next three stages leaves a folder, /layer, that is laid over the last one's root. Bytecode is compiled
# here, because the worker's file system is read-only; it says that it belongs to its source whatever the time
# stamps are ("unchecked-hash"). With one process, one seed and every time stamp at zero, the same lock gives the same
# layer to the last bit: a registry or a node that has it from another build, on another machine, recognises it.
FROM ${PYTHON} AS torch
COPY requirements/torch.txt /locks/
RUN python -m pip install --no-cache-dir --no-compile --no-deps --only-binary :all: --require-hashes \
        --root-user-action ignore --prefix /layer/usr/local --requirement /locks/torch.txt \
    # Some packages have files for other Pythons, and templates: they do not compile, and nobody imports them.
    && { PYTHONHASHSEED=0 python -m compileall -q -s /layer -p / --invalidation-mode unchecked-hash /layer \
        > /dev/null || true; } \
    && find /layer -exec touch --no-dereference --date @0 {} +


FROM ${PYTHON} AS libraries
COPY requirements/runtime.txt /locks/
RUN python -m pip install --no-cache-dir --no-compile --no-deps --only-binary :all: --require-hashes \
        --root-user-action ignore --prefix /layer/usr/local --requirement /locks/runtime.txt \
    && { PYTHONHASHSEED=0 python -m compileall -q -s /layer -p / --invalidation-mode unchecked-hash /layer \
        > /dev/null || true; } \
    && find /layer -exec touch --no-dereference --date @0 {} +


FROM ${PYTHON} AS worker
COPY requirements/build.txt /locks/
RUN python -m pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes \
        --root-user-action ignore --requirement /locks/build.txt
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY contracts contracts
COPY pipeline_steps pipeline_steps
COPY consumer consumer
# Our own code compiles, all of it, or there is no image.
RUN python -m pip install --no-cache-dir --no-compile --no-deps --no-index --no-build-isolation \
        --root-user-action ignore --prefix /layer/usr/local . \
    && PYTHONHASHSEED=0 python -m compileall -q -s /layer -p / --invalidation-mode unchecked-hash /layer \
    && find /layer -exec touch --no-dereference --date @0 {} +


FROM ${PYTHON} AS image

# Straight after the base, so that nothing below moves it.
COPY --from=torch /layer /

# A pod that cannot write and cannot install needs no installer; one that is not there has no vulnerabilities.
# The user is a number, which is all that `runAsNonRoot` can check, and the one that the pods name; it has a name
# too, for there are libraries that ask for it.
RUN python -m pip uninstall --yes --quiet --root-user-action ignore setuptools wheel pip \
    && groupadd --gid 65532 mlworker \
    && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin mlworker

COPY --from=libraries /layer /
COPY --from=worker /layer /

# The driver's libraries (libcuda.so.1) are not ours to ship: they belong to the node's kernel. GKE mounts them at
# /usr/local/nvidia; elsewhere NVIDIA's container runtime adds them for these capabilities. NVIDIA_VISIBLE_DEVICES
# is not set: it is the device plugin that says which GPU a pod may see, and an image must not say "all".
# Only /tmp is written to: by the weights of remote models, and by tools that are run in the pod.
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    PATH=/usr/local/nvidia/bin:/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp

USER 65532:65532
WORKDIR /tmp
# Probes and metrics. There is no HEALTHCHECK: Kubernetes ignores it and asks /startupz, /readyz and /livez.
EXPOSE 8080

# No tini. What an init is for, the worker does itself: it takes SIGTERM and SIGINT (consumer/serve.py), which
# nothing else would for the first process, and it starts no processes that would have to be waited for.
# tests/operations/test_first_process.py runs it as the first process of a PID namespace. No shell either, which
# would keep the signals to itself.
STOPSIGNAL SIGTERM
ENTRYPOINT ["mlworker"]
CMD ["run"]

# Last, since they change with every build and cost no layer.
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="mlworker" \
      org.opencontainers.image.description="An event-driven ML worker for Google Cloud" \
      org.opencontainers.image.source="https://github.com/FourTwoN/mlworker" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
