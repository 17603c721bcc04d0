# The command line on a CPU: docker build -t secateurs . && docker run --rm -v "$PWD:/work" secateurs inspect resnet20
FROM python:3.12-slim AS build
WORKDIR /src
COPY requirements/demo.txt requirements/demo.txt
RUN python -m venv /opt/secateurs \
 && /opt/secateurs/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements/demo.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/secateurs/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.12-slim
COPY --from=build /opt/secateurs /opt/secateurs
RUN useradd --create-home --uid 1000 secateurs
USER 1000
WORKDIR /work
ENV PATH=/opt/secateurs/bin:$PATH PYTHONUNBUFFERED=1
ENTRYPOINT ["secateurs"]
CMD ["--help"]
