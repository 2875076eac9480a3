# What the steps at the end are made of.

fail() {
    echo "$0: $*" >&2
    exit 1
}

kafka() { # COMMAND ARGUMENTS...: one of Kafka's own commands, to the Kafka that takes over
    command=${KAFKA_BIN:+$KAFKA_BIN/}$1
    shift
    # Some packages leave the .sh out.
    if command -v "$command.sh" >/dev/null; then
        command=$command.sh
    fi
    "$command" --bootstrap-server "$BOOTSTRAP" "$@"
}

described() { # TOPIC WORDS: whether the Kafka describes it with these
    kafka kafka-topics --describe --if-exists --topic "$1" | grep -qw -- "$2"
}

delete_former() { # TOPIC ID: never the topic that has been made again since
    if described "$1" "TopicId: $2"; then
        kafka kafka-topics --delete --topic "$1"
    fi
}

grow() { # TOPIC PARTITIONS
    described "$1" "PartitionCount: $2" || kafka kafka-topics --alter --topic "$1" --partitions "$2"
}

kafka_data_dirs() {
    printf '%s\n' "$KAFKA_DATA" | tr ',' '\n'
}

needs_stopped_kafka() {
    [ -n "$KAFKA_DATA" ] || fail 'set KAFKA_DATA to the log.dirs of the Kafka'
    kafka_data_dirs | while read -r dir; do
        [ -e "$dir/.kafka_cleanshutdown" ] || fail "$dir: its Kafka runs, or did not stop in good order"
    done
}

set_aside() { # PARTITION: a Kafka would rename it to *-stray
    mkdir -p "$ASIDE"
    if [ -d "$HERE/$1" ]; then
        mv "$HERE/$1" "$ASIDE/$1"
    fi
    [ -d "$ASIDE/$1" ] || fail "$HERE/$1 is missing"
}

made_by_kafka() { # PARTITION: its directory
    kafka_data_dirs | while read -r dir; do
        [ ! -f "$dir/$1/partition.metadata" ] || printf '%s\n' "$dir/$1"
    done
}

give() { # PARTITION: its files to the directory that Kafka made, which keeps its own topic id
    from=$SOURCE/$1
    to=$(made_by_kafka "$1")
    [ -d "$from" ] || fail "$from is missing"
    [ -n "$to" ] || fail "no $1 in $KAFKA_DATA: do the step 'create' first"
    for log in "$to"/*.log; do
        [ -s "$log" ] || continue
        # A copy that was cut short is the beginning of what is copied.
        cmp -s -n "$(stat -c %s "$log")" "$log" "$from/${log##*/}" || fail "$to has other records: left alone"
    done
    find "$to" -mindepth 1 ! -name partition.metadata -delete
    find "$from" -maxdepth 1 -type f \( -name '*.log' -o -name '*.index' -o -name '*.timeindex' \
        -o -name '*.txnindex' -o -name '*.snapshot' -o -name leader-epoch-checkpoint \) \
        -exec cp --reflink=auto -t "$to" {} +
    chown -R --reference="$to/partition.metadata" "$to"
    echo "gave $to the files of $from"
}

commit() { # GROUPS... < CSV: [group,]topic,partition,offset
    file=$(mktemp)
    cat >"$file"
    for group in "$@"; do
        set -- "$@" --group "$group"
        shift
    done
    told=$(kafka kafka-consumer-groups --reset-offsets "$@" --from-file "$file" --execute)
    printf '%s\n' "$told"
    # The command exits with 0 after errors, too, and moves what lies behind a log's end: so its table is compared.
    moved=$(printf '%s\n' "$told" | awk '$NF ~ /^[0-9]+$/ { print $(NF - 2), $(NF - 1), $NF }' | sort)
    meant=$(awk -F , '{ print $(NF - 2), $(NF - 1), $NF }' "$file" | sort)
    rm -f "$file"
    [ "$moved" = "$meant" ] || fail 'not all offsets were committed as they were here'
}
