# kproxy in a container. Build it:
#
#     docker build -t kproxy .
#
# On the host's network it is as on the host: only this machine can reach it, on 127.0.0.1:8001.
#
#     docker run --rm --network=host --user="$(id -u)" \
#         -v "$HOME/.kube/config:/home/kproxy/.kube/config:ro" kproxy
#
# In a network of its own nobody outside of the container can reach 127.0.0.1, so listening wider must be asked
# for, twice: whoever reaches the port acts with your credentials. Publish it on the host's loopback only.
#
#     docker run --rm -p 127.0.0.1:8001:8001 --user="$(id -u)" \
#         -v "$HOME/.kube/config:/home/kproxy/.kube/config:ro" kproxy --address=0.0.0.0 --unsafe-listen
#
# `--user` is for kubeconfigs that only their owner may read. The image runs with --read-only, too.
# A kubeconfig that names files or an exec plugin needs those in the container as well. README.md has manifests for
# Kubernetes ("In a cluster").
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS build
WORKDIR /src
COPY . .
# The outer pip installs into a venv that has none of its own. Its modules are compiled here, as the running
# container may be read-only.
RUN python -m venv --without-pip /opt/kproxy \
    && pip --python=/opt/kproxy/bin/python install --no-cache-dir --compile .

FROM python:${PYTHON_VERSION}-slim
# Python's base image brings pip; a proxy has no use for it.
RUN pip uninstall --yes --root-user-action=ignore setuptools wheel pip \
    && rm -rf /usr/local/lib/python3*/ensurepip
COPY --from=build /opt/kproxy /opt/kproxy
ENV PATH=/opt/kproxy/bin:$PATH \
    HOME=/home/kproxy \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /home/kproxy
# A number, so that Kubernetes can see that it is not root (runAsNonRoot).
USER 65532:65532
EXPOSE 8001
# Asks /-/healthz. Another port is asked when it is set with KPROXY_PORT; for other addresses, https and unix sockets
# run with --no-healthcheck. Kubernetes does not look at this; README.md has its probes.
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s CMD ["python", "-ISc", \
    "import os, socket, sys; port = int(os.environ.get('KPROXY_PORT') or 8001); \
    kproxy = socket.create_connection(('127.0.0.1', port), 3); \
    kproxy.sendall(b'GET /-/healthz HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n'); \
    sys.exit(b' 200 ' not in kproxy.recv(64))"]
ENTRYPOINT ["kproxy"]
