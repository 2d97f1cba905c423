# syntax=docker/dockerfile:1
# Two images from one build:
#
#   docker build --target operator -t millrace/operator:0.1.0 .
#   docker build --target runtime -t millrace/runtime:0.1.0 .
#
# Neither has a shell, both run as user 65532 and write nothing to their root file system: run them read-only. The runtime
# keeps its data in the folder that --data-dir names, which has to be a volume.

FROM rust:1.95-slim-bookworm AS build
# The compiler and linker of .cargo/config.toml, libclang for RocksDB's bindings, CMake for the TLS library's C sources.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates clang cmake g++ libclang-dev make mold pkg-config \
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
# A root file system for each image: the program, the libraries that it loads, CA certificates, a user without rights.
RUN for program in millrace millrace-operator; do \
      root=/root-of/$program \
   && mkdir -p "$root/etc/ssl/certs" "$root/usr/local/bin" \
   && mkdir -m 1777 "$root/tmp" \
   && cp "/out/$program" "$root/usr/local/bin/" \
   && ldd "/out/$program" | grep -o '/[^ ]*' | xargs -I '{}' cp --dereference --parents '{}' "$root" \
   && cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" \
   && echo 'millrace:x:65532:65532::/tmp:/bin/false' > "$root/etc/passwd" \
   && echo 'millrace:x:65532:' > "$root/etc/group" || exit 1; \
    done

# The programs alone: docker build --target binaries --output out .
FROM scratch AS binaries
COPY --from=build /out/ /

FROM scratch AS operator
LABEL org.opencontainers.image.title="Millrace operator" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /root-of/millrace-operator/ /
USER 65532:65532
EXPOSE 9601
ENTRYPOINT ["/usr/local/bin/millrace-operator"]

FROM scratch AS runtime
LABEL org.opencontainers.image.title="Millrace runtime" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /root-of/millrace/ /
USER 65532:65532
EXPOSE 9600
ENTRYPOINT ["/usr/local/bin/millrace"]
