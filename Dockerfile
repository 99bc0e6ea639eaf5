# docker build --tag laion-fmri .
# docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD/data:/data" laion-fmri info
FROM python:3.13-slim

# An environment of its own: awscli and Snakemake want different releases of docutils.
RUN python -m venv /opt/aws \
    && /opt/aws/bin/pip install --no-cache-dir 'awscli>=1.40,<2'

COPY pyproject.toml README.md LICENSE /opt/source/
COPY laion_fmri /opt/source/laion_fmri
COPY workflow /opt/source/workflow
COPY profiles /opt/source/profiles
RUN pip install --no-cache-dir /opt/source

# With --user comes a user that the image does not know: with a home and a name all the same.
RUN useradd --uid 1000 laion \
    && install --directory --mode 0777 /data
ENV HOME=/tmp \
    LOGNAME=laion \
    LAION_FMRI_AWS=/opt/aws/bin/aws \
    LAION_FMRI_DATA_DIR=/data
USER 1000
WORKDIR /data

ENTRYPOINT ["laion-fmri"]
CMD ["--help"]
