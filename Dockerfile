# An image that runs xaitune:
#   docker build -t xaitune .
#   docker run --rm -v "$PWD:/work" xaitune demo
# scripts/wheel does these steps without Docker, in a fresh environment; there a RUN step is one line.
FROM python:3.12-slim
WORKDIR /source
COPY LICENSE README.md pyproject.toml setup.cfg ./
COPY xaitune xaitune
RUN python -m pip wheel --quiet --no-deps --wheel-dir dist .
RUN python -m pip install --quiet --no-cache-dir dist/*.whl
RUN rm -r build dist xaitune xaitune.egg-info
WORKDIR /work
ENTRYPOINT ["xaitune"]
CMD ["demo"]
