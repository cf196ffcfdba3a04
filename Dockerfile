# The services, a target for each: docker build --target service1 .
# Needs BuildKit, for the cache mounts.
ARG RUST_VERSION=1.95
FROM rust:${RUST_VERSION}-bookworm AS build
WORKDIR /src
COPY . .
ARG SERVICES="certs service1 service2"
# Static binaries need nothing but a kernel. With `--target`, RUSTFLAGS do not apply to build
# scripts and macros, which can't be static.
RUN --mount=type=cache,id=mesh-cargo,target=/cache/cargo \
    --mount=type=cache,id=mesh-target,target=/cache/target,sharing=locked \
    export CARGO_HOME=/cache/cargo CARGO_TARGET_DIR=/cache/target \
        RUSTFLAGS="-C target-feature=+crt-static" && \
    host=$(rustc -vV | sed -n 's/^host: //p') && \
    cargo build --release --locked --target "$host" $(printf -- ' --package %s' $SERVICES) && \
    mkdir -p /out /volumes/certs/service1 /volumes/certs/service2 && cd "/cache/target/$host/release" && cp $SERVICES /out/

FROM scratch AS service
USER 65532:65532
HEALTHCHECK --interval=2s --timeout=3s --start-period=10s --retries=3 CMD ["/service", "healthcheck"]
ENTRYPOINT ["/service"]

# Writes the certificates of development. Its directories give new volumes their owner.
FROM scratch AS certs
USER 65532:65532
COPY --from=build /out/certs /bin/certs
COPY --from=build --chown=65532:65532 /volumes/certs /certs
ENTRYPOINT ["/bin/certs"]

FROM service AS service1
COPY --from=build /out/service1 /service
EXPOSE 8080 50051

FROM service AS service2
COPY --from=build /out/service2 /service
EXPOSE 8081
