# Both services, a target for each: docker build --target service1 .
# Needs BuildKit, for the cache mounts.
ARG RUST_VERSION=1.95
FROM rust:${RUST_VERSION}-bookworm AS build
WORKDIR /src
COPY . .
# Static binaries need nothing but a kernel. With `--target`, RUSTFLAGS do not apply to build
# scripts and macros, which can't be static.
RUN --mount=type=cache,id=mesh-cargo,target=/cache/cargo \
    --mount=type=cache,id=mesh-target,target=/cache/target,sharing=locked \
    export CARGO_HOME=/cache/cargo CARGO_TARGET_DIR=/cache/target \
        RUSTFLAGS="-C target-feature=+crt-static" && \
    host=$(rustc -vV | sed -n 's/^host: //p') && \
    cargo build --release --locked --target "$host" --package service1 --package service2 && \
    mkdir /out && cp "/cache/target/$host/release/service1" "/cache/target/$host/release/service2" /out/

FROM scratch AS service1
COPY --from=build /out/service1 /service1
USER 65532:65532
EXPOSE 8080 50051
HEALTHCHECK --interval=2s --timeout=3s --start-period=10s --retries=3 CMD ["/service1", "healthcheck"]
ENTRYPOINT ["/service1"]

FROM scratch AS service2
COPY --from=build /out/service2 /service2
USER 65532:65532
EXPOSE 8081
HEALTHCHECK --interval=2s --timeout=3s --start-period=10s --retries=3 CMD ["/service2", "healthcheck"]
ENTRYPOINT ["/service2"]
