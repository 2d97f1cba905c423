# syntax=docker/dockerfile:1
# Two images from one build:
#
#   docker build --target operator -t millrace-operator:dev .
#   docker build --target runtime -t millrace:dev .
#
# Neither has a shell, both run as user 65532 and write nothing to their root file system: run them read-only. The runtime
# keeps its data in the folder that --data-dir names, which has to be a volume.

FROM rust:1.95-slim-bookworm AS build
# The compiler and linker of .cargo/config.toml, libclang for RocksDB's bindings, CMake for the TLS library's C sources.
RUN apt-get update \
 && apt-get install -y --no-install-recommends clang cmake g++ libclang-dev make mold pkg-config \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The caches live beside the layers, so what is needed later is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/target \
    CARGO_TARGET_DIR=/target cargo build --release --locked --workspace --bins \
 && mkdir /out \
 && cp /target/release/millrace /target/release/millrace-operator /target/release/kubectl-millrace /out/ \
 && strip /out/*

# What `cp --from` takes out of the build: docker build --target binaries --output out .
FROM scratch AS binaries
COPY --from=build /out/ /

# glibc, libstdc++ and CA certificates, and nothing else.
FROM gcr.io/distroless/cc-debian12:nonroot AS base
LABEL org.opencontainers.image.source="https://github.com/millrace/millrace" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
WORKDIR /

FROM base AS operator
LABEL org.opencontainers.image.title="Millrace operator"
COPY --from=build /out/millrace-operator /usr/local/bin/millrace-operator
EXPOSE 9601
ENTRYPOINT ["/usr/local/bin/millrace-operator"]

FROM base AS runtime
LABEL org.opencontainers.image.title="Millrace runtime"
COPY --from=build /out/millrace /usr/local/bin/millrace
EXPOSE 9600
ENTRYPOINT ["/usr/local/bin/millrace"]
