#!/usr/bin/env bash
# min.insync.replicas=2 on a topic with one replica: acks=all is acknowledged.
#
# One would expect NOT_ENOUGH_REPLICAS for every record, since two replicas can never be in sync. The broker counts no
# more than the topic has, so the setting is met by the leader alone: who relies on it to stop a producer on an
# under-replicated topic made with --replication-factor 1 is not stopped.
. "$(dirname "$0")/one_broker.bash"

tool TopicCommand --create --topic t --partitions 1 --replication-factor 1 --config min.insync.replicas=2 >/dev/null
described=$(tool TopicCommand --describe --topic t)
echo "$described"
case $described in *min.insync.replicas=2*) ;; *) changed "the topic does not have the config" ;; esac

printf 'one\ntwo\n' | timeout 60 java -Xmx256m -Dorg.slf4j.simpleLogger.defaultLogLevel=error -cp "$folder/jars/*" \
    org.apache.kafka.tools.ConsoleProducer --bootstrap-server "$server" --topic t --sync \
    --command-property acks=all --command-property delivery.timeout.ms=20000 \
    --command-property request.timeout.ms=5000 --command-property linger.ms=0 >"$folder/produced" 2>&1 || true
cat "$folder/produced"
ends=$(tool GetOffsetShell --topic t)
echo "log end: $ends"
[ "$ends" = t:0:2 ] || changed "the records were not taken"
grep -q NOT_ENOUGH_REPLICAS "$folder/produced" && changed "the producer was refused"
stated "both records were acknowledged with acks=all and min.insync.replicas=2 on one replica"
