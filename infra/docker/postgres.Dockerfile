# A stand-in for the official postgres image where no registry answers: Debian's own PostgreSQL with an entry point that
# understands the official image's variables.
FROM scratch
LABEL org.opencontainers.image.description="Stand-in for the official image, built by shardbus from Debian packages"
ADD root.tar /
COPY postgres-entrypoint.sh /usr/local/bin/docker-entrypoint.sh
ENV LANG=C.UTF-8 PGDATA=/var/lib/postgresql/data PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin
VOLUME /var/lib/postgresql/data
EXPOSE 5432
STOPSIGNAL SIGINT
ENTRYPOINT ["/usr/local/bin/docker-entrypoint.sh"]
CMD ["postgres"]
