# The services, a target for each: docker build --target service1 .
# Both builders of Docker can build it: it has no `--mount`. One compile serves all targets.
ARG RUST_VERSION=1.95

FROM rust:${RUST_VERSION}-bookworm AS rust
WORKDIR /src
# The programs, and the crates that they share.
ENV SERVICES="certs service1 service2" CRATES="mesh-build protos common"
# Static binaries need nothing but a kernel. With a target, RUSTFLAGS do not apply to build scripts
# and macros, which can't be static. The list of the addresses that the start adjusts is packed: 4 KB in
# place of 350.
ENV CARGO_BUILD_TARGET=host-tuple CARGO_TARGET_DIR=/target \
    RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs"

# The workspace twice. In /stubs, each crate is its manifest and an empty program: that changes with
# the dependencies alone. A stub has no `[[test]]` or `[[bin]]`, whose files would have to be there.
# In /crates are the sources of the programs: no test, example or page is among them.
FROM rust AS workspace
COPY . .
RUN mkdir /stubs /crates && cp -r $CRATES $SERVICES /crates && cp Cargo.lock /stubs && \
    find . -name Cargo.toml -printf '%h\n' | while read -r crate; do \
      stub=/stubs/$crate && mkdir -p "$stub/src" && \
      awk '/^\[/ { skip = /^\[\[/ } !skip' "$crate/Cargo.toml" >"$stub/Cargo.toml" && \
      if [ -e "$crate/build.rs" ]; then echo 'fn main() {}' >"$stub/build.rs"; fi && \
      if [ -e "$crate/src/main.rs" ]; then echo 'fn main() {}' >"$stub/src/main.rs"; fi && \
      if [ -e "$crate/src/lib.rs" ] || ! [ -e "$stub/src/main.rs" ]; then : >"$stub/src/lib.rs"; fi || exit; \
    done

FROM rust AS dependencies
COPY --from=workspace /stubs .
RUN cargo build --release --locked $(printf -- ' --package %s' $SERVICES)

# Cargo compares times, and a source may be older than what was made of its stub.
FROM dependencies AS build
COPY --from=workspace /crates .
RUN find $CRATES $SERVICES -exec touch {} + && \
    cargo build --release --locked $(printf -- ' --package %s' $SERVICES) && \
    mkdir -p /out /volumes/certs/service1 /volumes/certs/service2 && \
    for service in $SERVICES; do cp /target/*/release/$service /out || exit; done && \
    rm -r /target # each edit would keep one

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
