# docker build -t lightning-unlearn . && docker run --rm -v "$PWD/runs:/data/runs" lightning-unlearn compare --recipe digits/compare
FROM python:3.12-slim

# the CPU build of PyTorch; for a GPU build with --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

RUN useradd --create-home --uid 1000 user && mkdir /data && chown user /data
COPY pyproject.toml README.md LICENSE /src/
COPY lightning_unlearn /src/lightning_unlearn
COPY configs /src/configs
RUN pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" /src

USER user
WORKDIR /data
ENTRYPOINT ["lightning-unlearn"]
CMD ["--help"]
