# Two images from one file: `api` holds no PyTorch, `worker` holds everything.
#   docker build --target api .      docker build --target worker .
FROM python:3.11-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# HOME is for caches of libraries; the root file system may be read-only.
ENV HOME=/tmp DARKROOM_DATA_DIR=/data
RUN useradd --system --uid 10001 --home-dir /tmp --shell /usr/sbin/nologin darkroom \
 && install -d -o darkroom -g darkroom /data
WORKDIR /opt/darkroom
# Dependencies first, from empty packages: a change of our code does not install them again.
COPY pyproject.toml constraints.txt README.md ./
RUN mkdir app models store worker && touch app/__init__.py models/__init__.py store/__init__.py worker/__init__.py \
 && pip install -c constraints.txt .

FROM base AS api
COPY store store
COPY models models
COPY app app
RUN pip install --no-deps .
USER darkroom
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
  CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
CMD ["darkroom", "api"]

FROM base AS worker
RUN pip install -c constraints.txt '.[worker,export,tensorboard,fid]'
COPY store store
COPY models models
COPY worker worker
COPY app app
RUN pip install --no-deps .
USER darkroom
VOLUME /data
# Patient, because trainings on the CPU may leave the check little of it.
HEALTHCHECK --interval=15s --timeout=30s --start-period=60s CMD ["python3", "-m", "worker.health"]
CMD ["python3", "-m", "worker.launch"]
