# One image for all services: `python -m services.<name> [serve | migrate]`.
#
#   docker build -t tally .                      packages come from the index that pip uses
#   make wheels image                            the same, from dist/wheels: the build needs no network
#
# Packages are those of requirements/image.txt, each checked by its hash. Nothing is written at run time but /tmp. There
# is no HEALTHCHECK: probes are the chart's.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS build
# (The pattern finds nothing where there is no such folder, which COPY takes as long as the first name is there.)
COPY requirements/image.txt dist/wheel[s] /build/
RUN python3 -m venv --without-pip /opt/tally \
 && if ls /build/*.whl >/dev/null 2>&1; then offline="--no-index --find-links /build"; fi \
 && python3 -m pip --python /opt/tally/bin/python install --no-cache-dir --disable-pip-version-check --no-deps \
        --only-binary :all: --require-hashes $offline -r /build/image.txt
ARG VERSION=0.1.0
COPY services /opt/tally/src/services
COPY tally /opt/tally/src/tally
# A .pth file instead of a build: nothing that is not in the lock is downloaded. The metadata say the version.
RUN site=$(/opt/tally/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
 && echo /opt/tally/src > "$site/tally.pth" \
 && mkdir "$site/tally-$VERSION.dist-info" \
 && printf 'Metadata-Version: 2.1\nName: tally\nVersion: %s\n' "$VERSION" > "$site/tally-$VERSION.dist-info/METADATA" \
 && printf '#!/bin/sh\nexec python -m tally "$@"\n' > /opt/tally/bin/tally \
 && chmod 755 /opt/tally/bin/tally \
 && /opt/tally/bin/python -m compileall -q /opt/tally/src \
 && find /opt/tally -name tests -path '*/site-packages/*' -type d -prune -exec rm -rf {} +

FROM ${BASE_IMAGE}
# What installs and builds packages has no place where services run.
RUN rm -rf /usr/local/lib/python3*/site-packages/* /usr/local/lib/python3*/ensurepip /usr/local/bin/pip* \
        /usr/local/bin/wheel /usr/lib/python3/dist-packages/pip* /usr/lib/python3/dist-packages/setuptools* \
        /usr/lib/python3/dist-packages/pkg_resources /usr/lib/python3/dist-packages/wheel* /usr/bin/pip* \
        /usr/lib/python3*/ensurepip /usr/share/python-wheels
COPY --from=build /opt/tally /opt/tally
ENV PATH=/opt/tally/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    TALLY_HOST=0.0.0.0
USER 65532:65532
WORKDIR /tmp
# author, conference, gateway, directory, notifier; the admin port of each is 1000 above it.
EXPOSE 8070 8080 8443 8060 8050
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Tally" \
      org.opencontainers.image.description="Many-to-many relationships across microservices that stay whole." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
CMD ["python", "-m", "services.gateway", "serve"]
